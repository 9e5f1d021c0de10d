//! Who may do what with a file, a folder or a pipe: access lists.
//!
//! Source: learn.microsoft.com, "Security Descriptor Definition Language", "Access Control Lists", "File Security and
//! Access Rights".

use super::account::{Local, OwnedSid, Sid};
use super::checked;
use super::text::{wide, wide_path};
use crate::platform::Privacy;
use std::fs::OpenOptions;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle};
use std::path::Path;
use std::ptr;
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, GENERIC_ALL, GENERIC_READ, GENERIC_WRITE};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, EXPLICIT_ACCESS_W, GRANT_ACCESS, GetNamedSecurityInfoW,
    GetSecurityInfo, NO_MULTIPLE_TRUSTEE, SDDL_REVISION_1, SE_FILE_OBJECT, SetEntriesInAclW, SetNamedSecurityInfoW,
    TRUSTEE_IS_SID, TRUSTEE_IS_UNKNOWN, TRUSTEE_W,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, GetAce, INHERIT_ONLY_ACE, NO_INHERITANCE,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES,
    SUB_CONTAINERS_AND_OBJECTS_INHERIT, SetKernelObjectSecurity, UNPROTECTED_DACL_SECURITY_INFORMATION,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ALL_ACCESS, FILE_APPEND_DATA, FILE_DELETE_CHILD, FILE_FLAG_BACKUP_SEMANTICS, FILE_GENERIC_EXECUTE,
    FILE_GENERIC_READ, FILE_READ_DATA, FILE_WRITE_DATA, READ_CONTROL, WRITE_DAC, WRITE_OWNER,
};
use windows_sys::Win32::System::SystemServices::{
    ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE, ACCESS_DENIED_CALLBACK_ACE_TYPE,
    ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE,
};

/// What lets its holder change a file, or what is in a folder.
pub const CHANGING: u32 = FILE_WRITE_DATA
    | FILE_APPEND_DATA
    | FILE_DELETE_CHILD
    | DELETE
    | WRITE_DAC
    | WRITE_OWNER
    | GENERIC_WRITE
    | GENERIC_ALL;

/// What lets its holder read or change it.
pub const TELLING: u32 = CHANGING | FILE_READ_DATA | GENERIC_READ;

/// A security descriptor.
pub struct Descriptor(Local);

impl Descriptor {
    /// For a file: its owner, SYSTEM, the administrators, and nobody else, whatever its folder says; `readers` may read.
    ///
    /// # Errors
    /// What the system answers.
    pub fn private_file(readers: &[Sid]) -> io::Result<Self> {
        Self::private("", readers)
    }

    /// For a folder, and for what is made in it.
    ///
    /// # Errors
    /// What the system answers.
    pub fn private_folder() -> io::Result<Self> {
        Self::private("OICI", &[])
    }

    fn private(inheritance: &str, readers: &[Sid]) -> io::Result<Self> {
        let readers: Vec<(&Sid, &str)> = readers.iter().map(|reader| (reader, "FR")).collect();
        Self::parse(&private_sddl(inheritance, &Sid::ours()?, &readers))
    }

    /// For a pipe: this process's account, SYSTEM, and these.
    ///
    /// # Errors
    /// What the system answers.
    pub fn of_pipe(others: &[Sid]) -> io::Result<Self> {
        Self::parse(&pipe_sddl(&Sid::ours()?, others))
    }

    fn parse(sddl: &str) -> io::Result<Self> {
        let mut descriptor: PSECURITY_DESCRIPTOR = ptr::null_mut();
        // SAFETY: the text ends with a zero, and the descriptor is ours to free.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                wide(sddl).as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                ptr::null_mut(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(Local(descriptor))) }
    }

    /// What is given to a call that makes something; no handle made with it is inherited. Valid for as long as this
    /// lives.
    pub fn attributes(&self) -> SECURITY_ATTRIBUTES {
        #[expect(clippy::cast_possible_truncation, reason = "a structure of three words")]
        let size = size_of::<SECURITY_ATTRIBUTES>() as u32;
        SECURITY_ATTRIBUTES { nLength: size, lpSecurityDescriptor: self.0.0, bInheritHandle: 0 }
    }

    /// Gives its access list to something that is there, instead of that which it has or inherits.
    ///
    /// # Errors
    /// What the system answers.
    pub fn apply(&self, to: BorrowedHandle<'_>) -> io::Result<()> {
        self.set(to, 0)
    }

    fn set(&self, to: BorrowedHandle<'_>, more: u32) -> io::Result<()> {
        let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION | more;
        // SAFETY: the handle is open, and the descriptor is whole.
        checked(unsafe { SetKernelObjectSecurity(to.as_raw_handle(), what, self.0.0) })
    }
}

/// Whom a private file is open to: us, the system, the administrators, and these with these rights.
fn private_sddl(inheritance: &str, ours: &Sid, others: &[(&Sid, &str)]) -> String {
    let all = [(ours.0.as_str(), "FA"), ("SY", "FA"), ("BA", "FA")].into_iter();
    let all = all.chain(others.iter().map(|(Sid(other), rights)| (other.as_str(), *rights)));
    let entries: Vec<String> = all.map(|(who, rights)| format!("(A;{inheritance};{rights};;;{who})")).collect();
    format!("D:P{}", entries.concat())
}

fn pipe_sddl(ours: &Sid, others: &[Sid]) -> String {
    let mut sddl = format!("D:P(A;;GA;;;{})(A;;GA;;;SY)", ours.0);
    sddl.extend(others.iter().filter(|other| *other != ours).map(|Sid(other)| format!("(A;;GRGW;;;{other})")));
    sddl
}

/// Who may do what with a file.
#[derive(Debug)]
pub struct Access {
    /// Whether it belongs to us, or to those who may do everything.
    pub is_ours: bool,
    /// Who else may do with it what was asked for.
    pub others: Vec<Sid>,
}

impl Access {
    /// Reads who has some of these rights on a file. `readers` are no others.
    ///
    /// # Errors
    /// What the system answers.
    pub fn of(file: BorrowedHandle<'_>, rights: u32, readers: &[Sid]) -> io::Result<Self> {
        let (mut owner, mut list, mut descriptor) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the handle is open; what is written are three pointers, of which the last is ours to free and holds what
        // the others point to.
        let code = unsafe {
            GetSecurityInfo(
                file.as_raw_handle(),
                SE_FILE_OBJECT,
                OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
                &raw mut owner,
                ptr::null_mut(),
                &raw mut list,
                ptr::null_mut(),
                &raw mut descriptor,
            )
        };
        if code != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(code.cast_signed()));
        }
        let _owned = Local(descriptor);
        let ours = Sid::ours()?;
        // SAFETY: the call succeeded, so this points to a SID in the descriptor.
        let owner = unsafe { Sid::at(owner) }?;
        let is_ours = owner.is_trusted(&ours);
        // SAFETY: the same, for its access list.
        let mut others = unsafe { holders(list, rights) }?;
        // An owner can give himself whatever he likes.
        others.push(owner);
        others.retain(|sid| !sid.is_trusted(&ours) && !readers.contains(sid));
        others.sort();
        others.dedup();
        Ok(Self { is_ours, others })
    }
}

/// Gives a file or folder to an account, which may do what it likes with it from then on: beside those who may already, or
/// those to whom it is private.
///
/// # Errors
/// What the system answers.
pub fn give(path: &Path, to: &Sid, privacy: Privacy) -> io::Result<()> {
    match privacy {
        Privacy::AsItsFolder => allow(path, to, FILE_ALL_ACCESS, true),
        Privacy::Private => {
            let inheritance = if path.is_dir() { "OICI" } else { "" };
            let sddl = private_sddl(inheritance, &Sid::ours()?, &[(to, "FA")]);
            let descriptor = Descriptor::parse(&format!("O:{}{sddl}", to.0))?;
            let mut options = OpenOptions::new();
            options.access_mode(READ_CONTROL | WRITE_DAC | WRITE_OWNER).custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
            descriptor.set(options.open(path)?.as_handle(), OWNER_SECURITY_INFORMATION)
        }
    }
}

/// Lets an account read a file, or what is in a folder, beside those who may already.
///
/// # Errors
/// What the system answers.
pub fn let_read(path: &Path, reader: &Sid) -> io::Result<()> {
    allow(path, reader, FILE_GENERIC_READ | FILE_GENERIC_EXECUTE, false)
}

/// Lets an account do what it likes in a folder that stays whose it is.
///
/// # Errors
/// What the system answers.
pub fn let_write(path: &Path, writer: &Sid) -> io::Result<()> {
    allow(path, writer, FILE_ALL_ACCESS, false)
}

/// Gives a file or folder the access that its folder gives, and none of its own; where that gives none, it keeps what it has.
///
/// # Errors
/// What the system answers.
pub fn inherit(path: &Path) -> io::Result<()> {
    let name = wide_path(path)?;
    let set = |list: *const ACL, what| {
        // SAFETY: the name ends with a zero, and the list is whole.
        succeeded(unsafe {
            SetNamedSecurityInfoW(
                name.as_ptr(),
                SE_FILE_OBJECT,
                DACL_SECURITY_INFORMATION | what,
                ptr::null_mut(),
                ptr::null_mut(),
                list,
                ptr::null(),
            )
        })
    };
    let (before, _owned) = list_of(&name)?;
    // A head that says its size, and no entries: no list at all would let everybody do everything.
    let nobody = ACL { AclRevision: 2, AclSize: 8, ..ACL::default() };
    set(&raw const nobody, UNPROTECTED_DACL_SECURITY_INFORMATION)?;
    let (after, _owned_too) = list_of(&name)?;
    // SAFETY: it is null or points to a list that lives.
    if !after.is_null() && unsafe { (*after).AceCount } == 0 {
        set(before, 0)?;
    }
    Ok(())
}

/// A file's or folder's access list, in what holds it.
fn list_of(name: &[u16]) -> io::Result<(*mut ACL, Local)> {
    let (mut list, mut descriptor) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the name ends with a zero; what is written are two pointers, of which the second is ours to free and holds
    // what the first points to.
    succeeded(unsafe {
        GetNamedSecurityInfoW(
            name.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut list,
            ptr::null_mut(),
            &raw mut descriptor,
        )
    })?;
    Ok((list, Local(descriptor)))
}

/// What calls that answer with an error's number mean.
fn succeeded(code: u32) -> io::Result<()> {
    match code {
        ERROR_SUCCESS => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

fn allow(path: &Path, account: &Sid, rights: u32, owns: bool) -> io::Result<()> {
    let (name, sid) = (wide_path(path)?, OwnedSid::parse(&account.0)?);
    let (list, _owned) = list_of(&name)?;
    let access = EXPLICIT_ACCESS_W {
        grfAccessPermissions: rights,
        grfAccessMode: GRANT_ACCESS,
        grfInheritance: if path.is_dir() { SUB_CONTAINERS_AND_OBJECTS_INHERIT } else { NO_INHERITANCE },
        Trustee: TRUSTEE_W {
            pMultipleTrustee: ptr::null_mut(),
            MultipleTrusteeOperation: NO_MULTIPLE_TRUSTEE,
            TrusteeForm: TRUSTEE_IS_SID,
            TrusteeType: TRUSTEE_IS_UNKNOWN,
            ptstrName: sid.0.0.cast(),
        },
    };
    let mut extended = ptr::null_mut();
    // SAFETY: one entry is given, whose SID lives, and a list that lives; what is written is a list that is ours to free.
    succeeded(unsafe { SetEntriesInAclW(1, &raw const access, list, &raw mut extended) })?;
    let _extended = Local(extended.cast());
    let (owner, what) = match owns {
        true => (sid.0.0, OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION),
        false => (ptr::null_mut(), DACL_SECURITY_INFORMATION),
    };
    // SAFETY: the name ends with a zero, the SID and the list live.
    succeeded(unsafe {
        SetNamedSecurityInfoW(name.as_ptr(), SE_FILE_OBJECT, what, owner, ptr::null_mut(), extended, ptr::null())
    })
}

/// Everybody to whom an access list gives some of these rights.
///
/// # Safety
/// `list` must be null or point to an access list.
unsafe fn holders(list: *const ACL, rights: u32) -> io::Result<Vec<Sid>> {
    const EVERYBODY: &str = "S-1-1-0";
    if list.is_null() {
        // No list at all lets everybody do everything.
        return Ok(vec![Sid(EVERYBODY.to_owned())]);
    }
    let mut found = Vec::new();
    // SAFETY: as the caller promises.
    for index in 0..u32::from(unsafe { (*list).AceCount }) {
        let mut entry = ptr::null_mut();
        // SAFETY: the list is one, and the index is below its count; what is written is a pointer into the list.
        if unsafe { GetAce(list, index, &raw mut entry) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: every entry begins with that header.
        let header = unsafe { *entry.cast::<ACE_HEADER>() };
        let denies = [
            ACCESS_DENIED_ACE_TYPE,
            ACCESS_DENIED_OBJECT_ACE_TYPE,
            ACCESS_DENIED_CALLBACK_ACE_TYPE,
            ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE,
        ];
        if denies.contains(&u32::from(header.AceType)) || u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0 {
            continue;
        }
        if u32::from(header.AceType) != ACCESS_ALLOWED_ACE_TYPE {
            // Some condition or other: whom it lets in can't be told from here.
            found.push(Sid(EVERYBODY.to_owned()));
            continue;
        }
        let allowed = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: the type says that the entry is such a structure.
        if unsafe { (*allowed).Mask } & rights != 0 {
            // SAFETY: and that a SID begins at its last member.
            found.push(unsafe { Sid::at((&raw mut (*allowed).SidStart).cast()) }?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_open_to_its_owner_and_those_who_may_do_everything() {
        let (us, other) = (Sid("S-1-5-21-1".into()), Sid("S-1-5-21-7".into()));
        assert_eq!(private_sddl("", &us, &[]), "D:P(A;;FA;;;S-1-5-21-1)(A;;FA;;;SY)(A;;FA;;;BA)");
        let folder = "D:P(A;OICI;FA;;;S-1-5-21-1)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FR;;;S-1-5-21-7)";
        assert_eq!(private_sddl("OICI", &us, &[(&other, "FR")]), folder);
    }

    #[test]
    fn a_pipe_is_open_to_us_the_system_and_the_services_account() {
        let (us, service) = (Sid("S-1-5-21-1".into()), Sid("S-1-5-80-7".into()));
        assert_eq!(pipe_sddl(&us, &[]), "D:P(A;;GA;;;S-1-5-21-1)(A;;GA;;;SY)");
        assert_eq!(pipe_sddl(&us, std::slice::from_ref(&us)), "D:P(A;;GA;;;S-1-5-21-1)(A;;GA;;;SY)");
        let both = "D:P(A;;GA;;;S-1-5-21-1)(A;;GA;;;SY)(A;;GRGW;;;S-1-5-80-7)";
        assert_eq!(pipe_sddl(&us, &[service]), both);
    }

    /// What was asked for is what is there.
    #[test]
    fn a_file_for_a_reader_is_his_to_read_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let reader = Sid("S-1-5-32-545".into());
        let path = folder.path().join("file");
        // Wine keeps a reader only where it is everybody; that nobody else may read holds there too.
        let file = crate::platform::create_for(&path, std::slice::from_ref(&reader)).unwrap();
        assert_eq!(Access::of(file.as_handle(), TELLING, &[reader]).unwrap().others, []);
        assert!(Access::of(file.as_handle(), CHANGING, &[]).unwrap().is_ours);
        let open = Access::of(std::fs::File::create(folder.path().join("open")).unwrap().as_handle(), TELLING, &[]);
        assert_ne!(open.unwrap().others, [], "it has what its folder gives");
    }

    /// Everything that is private for us has a list that says so.
    #[test]
    fn an_access_list_names_whom_it_lets_in() {
        use windows_sys::Win32::Security::GetSecurityDescriptorDacl;
        let others = |sddl: &str| {
            let descriptor = Descriptor::parse(sddl).unwrap();
            let (mut present, mut list, mut defaulted) = (0, ptr::null_mut(), 0);
            // SAFETY: the descriptor is whole, and what is written are two flags and a pointer into it.
            let done = unsafe {
                GetSecurityDescriptorDacl(descriptor.0.0, &raw mut present, &raw mut list, &raw mut defaulted)
            };
            assert_ne!(done, 0);
            // SAFETY: the list is that of the descriptor, which lives.
            let mut found = unsafe { holders(if present == 0 { ptr::null_mut() } else { list }, TELLING) }.unwrap();
            found.retain(|sid| !sid.is_trusted(&Sid::ours().unwrap()));
            found.into_iter().map(|sid| sid.0).collect::<Vec<_>>()
        };
        let nobody: [&str; 0] = [];
        assert_eq!(others("D:P(A;;FA;;;SY)(A;;FA;;;BA)"), nobody);
        assert_eq!(others("D:(A;;FA;;;SY)(A;ID;0x1200a9;;;BU)"), ["S-1-5-32-545"]);
        assert_eq!(others("D:(A;;FR;;;WD)(D;;FA;;;BU)(A;OICIIO;FA;;;BU)"), ["S-1-1-0"]);
        assert_eq!(
            others("D:(A;;0x100080;;;BU)"),
            nobody,
            "to wait for a file and to see its attributes tells nothing"
        );
        assert_eq!(others("O:SY"), ["S-1-1-0"], "no list at all");
    }
}
