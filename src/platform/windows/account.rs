//! Accounts and groups: security identifiers (SIDs), their names, and whose process this is.
//!
//! Source: learn.microsoft.com, "Security Identifiers", "Well-known SIDs".

use super::text::{text_at, wide};
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, HLOCAL, LocalFree};
use windows_sys::Win32::Security::Authorization::{ConvertSidToStringSidW, ConvertStringSidToSidW};
use windows_sys::Win32::Security::{
    GetTokenInformation, LookupAccountNameW, LookupAccountSidW, PSID, SID_NAME_USE, SidTypeAlias, SidTypeGroup,
    SidTypeInvalid, SidTypeUser, SidTypeWellKnownGroup, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// An account or a group, as `S-1-5-…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sid(pub(super) String);

impl Sid {
    /// The account that this process runs as.
    ///
    /// # Errors
    /// What the system answers.
    pub fn ours() -> io::Result<Self> {
        let token = own_token(TOKEN_QUERY)?;
        let mut needed = 0;
        // SAFETY: no buffer is given, so nothing but the size is written.
        unsafe { GetTokenInformation(token.as_raw_handle(), TokenUser, ptr::null_mut(), 0, &raw mut needed) };
        // Of eight bytes each, as the structure that goes in wants to be aligned.
        let mut buffer = vec![0_u64; (needed as usize).div_ceil(8)];
        // SAFETY: the buffer has the size that was asked for.
        let done = unsafe {
            GetTokenInformation(token.as_raw_handle(), TokenUser, buffer.as_mut_ptr().cast(), needed, &raw mut needed)
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the buffer begins with that structure, and its SID is in the buffer.
        unsafe { Self::at((*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid) }
    }

    /// An account by its name: `name`, `.\name`, `DOMAIN\name`, `name@domain` or `S-1-5-…`.
    ///
    /// # Errors
    /// Where there is no such account.
    pub fn of_account(name: &str) -> io::Result<Self> {
        if let Some(sid) = Self::parse(name) {
            return Ok(sid);
        }
        // The service manager's names for these are the same in every language.
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix(r"nt authority\").unwrap_or(&lower) {
            "localsystem" | "system" => return Ok(Self("S-1-5-18".to_owned())),
            "localservice" => return Ok(Self("S-1-5-19".to_owned())),
            "networkservice" => return Ok(Self("S-1-5-20".to_owned())),
            _ => {}
        }
        let local = name.strip_prefix(r".\").map(|bare| format!(r"{}\{bare}", super::computer_name()));
        let name = local.as_deref().unwrap_or(name);
        let unknown = |error: io::Error| {
            io::Error::new(error.kind(), format!("there is no account `{name}` on this machine ({error})"))
        };
        let name_w = wide(name);
        let (mut size, mut domain_size, mut kind) = (0, 0, SidTypeInvalid);
        // SAFETY: no buffers are given, so nothing but the sizes is written.
        unsafe {
            LookupAccountNameW(
                ptr::null(),
                name_w.as_ptr(),
                ptr::null_mut(),
                &raw mut size,
                ptr::null_mut(),
                &raw mut domain_size,
                &raw mut kind,
            )
        };
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(ERROR_INSUFFICIENT_BUFFER.cast_signed()) {
            return Err(unknown(error));
        }
        let mut sid = vec![0_u64; (size as usize).div_ceil(8)];
        let mut domain = vec![0_u16; domain_size as usize];
        // SAFETY: both buffers have the sizes that were asked for.
        let done = unsafe {
            LookupAccountNameW(
                ptr::null(),
                name_w.as_ptr(),
                sid.as_mut_ptr().cast(),
                &raw mut size,
                domain.as_mut_ptr(),
                &raw mut domain_size,
                &raw mut kind,
            )
        };
        if done == 0 {
            return Err(unknown(io::Error::last_os_error()));
        }
        // A computer may have the name, too.
        if ![SidTypeUser, SidTypeGroup, SidTypeAlias, SidTypeWellKnownGroup].contains(&kind) {
            return Err(unknown(io::Error::other("something else has that name")));
        }
        // SAFETY: the call succeeded, so the buffer holds a SID.
        unsafe { Self::at(sid.as_mut_ptr().cast()) }
    }

    /// Only what is written as a SID: the system reads two letters as one, too, and somebody may be called that.
    fn parse(text: &str) -> Option<Self> {
        let sid = text
            .get(..4)
            .filter(|start| start.eq_ignore_ascii_case("S-1-"))
            .and_then(|_| OwnedSid::parse(text).ok())?;
        // SAFETY: it was parsed, so it points to a SID.
        unsafe { Self::at(sid.0.0) }.ok()
    }

    /// The SID that is there.
    ///
    /// # Errors
    /// What the system answers.
    ///
    /// # Safety
    /// `sid` must point to a SID.
    pub unsafe fn at(sid: PSID) -> io::Result<Self> {
        let mut text = ptr::null_mut();
        // SAFETY: as the caller promises; the text is ours to free.
        if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let _owned = Local(text.cast());
        // SAFETY: the call succeeded, so there is a text that ends with a zero.
        Ok(Self(unsafe { text_at(text) }))
    }

    /// Whether a file that this account may read is private all the same: SYSTEM and the administrators can take
    /// what they like, and "owner rights" are the owner's.
    pub fn is_trusted(&self, ours: &Self) -> bool {
        const SYSTEM: &str = "S-1-5-18";
        const ADMINISTRATORS: &str = "S-1-5-32-544";
        const OWNER_RIGHTS: &str = "S-1-3-4";
        const TRUSTED_INSTALLER: &str = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
        self == ours || [SYSTEM, ADMINISTRATORS, OWNER_RIGHTS, TRUSTED_INSTALLER].contains(&self.0.as_str())
    }

    /// Whether it is one account, a person's or a service's, and no group.
    pub fn is_one_account(&self) -> bool {
        let is_service = ["S-1-5-19", "S-1-5-20"].contains(&self.0.as_str()) || self.0.starts_with("S-1-5-80-");
        is_service || self.look_up().is_some_and(|(_, kind)| kind == SidTypeUser)
    }

    /// `BUILTIN\Users`, where the system knows the name, and what kind of thing that is.
    fn look_up(&self) -> Option<(String, SID_NAME_USE)> {
        let sid = OwnedSid::parse(&self.0).ok()?;
        let (mut name, mut domain) = ([0_u16; 257], [0_u16; 257]);
        let (mut name_size, mut domain_size, mut kind) = (257, 257, SidTypeInvalid);
        // SAFETY: the SID is one, and the buffers have the sizes that are given.
        let done = unsafe {
            LookupAccountSidW(
                ptr::null(),
                sid.0.0,
                name.as_mut_ptr(),
                &raw mut name_size,
                domain.as_mut_ptr(),
                &raw mut domain_size,
                &raw mut kind,
            )
        };
        if done == 0 {
            return None;
        }
        let text = |units: &[u16], size: u32| String::from_utf16_lossy(&units[..(size as usize).min(256)]);
        let (name, domain) = (text(&name, name_size), text(&domain, domain_size));
        Some((if domain.is_empty() { name } else { format!(r"{domain}\{name}") }, kind))
    }
}

/// Its name, or the SID itself.
impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.look_up() {
            Some((name, _)) => f.write_str(&name),
            None => f.write_str(&self.0),
        }
    }
}

/// What `LocalAlloc` gave us.
pub struct Local(pub *mut c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: the system made it for us to free, and nobody else does.
        unsafe { LocalFree(self.0 as HLOCAL) };
    }
}

/// A SID as the system wants it.
pub struct OwnedSid(pub Local);

impl OwnedSid {
    /// From `S-1-5-…`.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut sid = ptr::null_mut();
        // SAFETY: the text ends with a zero, and the SID is ours to free.
        match unsafe { ConvertStringSidToSidW(wide(text).as_ptr(), &raw mut sid) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(Self(Local(sid))),
        }
    }
}

/// This process's token.
///
/// # Errors
/// What the system answers.
pub fn own_token(access: u32) -> io::Result<OwnedHandle> {
    let mut token = ptr::null_mut();
    // SAFETY: the pseudo handle of this process is always valid; what is written is a handle, which is ours.
    if unsafe { OpenProcessToken(GetCurrentProcess(), access, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_sid() {
        let us = Sid::ours().unwrap();
        assert!(us.0.starts_with("S-1-"), "{us:?}");
        assert_eq!(Sid::of_account("S-1-5-18").unwrap(), Sid("S-1-5-18".into()));
        assert_eq!(Sid::of_account("s-1-5-18").unwrap(), Sid("S-1-5-18".into()));
        // What stands for everybody where access lists are written is nobody's name here.
        assert!(Sid::of_account("WD").unwrap_err().to_string().contains("there is no account `WD`"));
        assert_eq!(Sid::of_account(r"NT Authority\LocalService").unwrap(), Sid("S-1-5-19".into()));
        let unknown = Sid::of_account("nobody-of-this-name").unwrap_err().to_string();
        assert!(unknown.contains("there is no account `nobody-of-this-name`"), "{unknown}");
    }

    #[test]
    fn one_account_is_told_from_a_group() {
        assert!(Sid("S-1-5-19".into()).is_one_account() && Sid("S-1-5-80-1-2-3".into()).is_one_account());
        assert!(Sid::ours().unwrap().is_one_account());
        assert!(!Sid("S-1-5-32-545".into()).is_one_account() && !Sid("S-1-1-0".into()).is_one_account());
    }
}
