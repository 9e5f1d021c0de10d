//! Privileges that our account has, but that are off until they are asked for.

use super::account::own_token;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr;
use windows_sys::Win32::Foundation::{ERROR_NOT_ALL_ASSIGNED, GetLastError, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES,
    TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::core::{PCWSTR, w};

/// To shut the machine down.
pub const SHUTDOWN: Privilege = Privilege { name: w!("SeShutdownPrivilege"), word: "SeShutdownPrivilege" };

/// To give a file to another account.
pub const RESTORE: Privilege = Privilege { name: w!("SeRestorePrivilege"), word: "SeRestorePrivilege" };

/// A privilege.
#[derive(Clone, Copy)]
pub struct Privilege {
    name: PCWSTR,
    word: &'static str,
}

/// Turns a privilege of this process on.
///
/// # Errors
/// Names the privilege that our account lacks.
pub fn enable(privilege: Privilege) -> io::Result<()> {
    let lacking = |error: io::Error| {
        io::Error::new(error.kind(), format!("this account lacks the privilege {}: {error}", privilege.word))
    };
    let token = own_token(TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY)?;
    let mut id = LUID::default();
    // SAFETY: the name is a constant that ends with a zero, and what is written is a number.
    if unsafe { LookupPrivilegeValueW(ptr::null(), privilege.name, &raw mut id) } == 0 {
        return Err(lacking(io::Error::last_os_error()));
    }
    let wanted = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES { Luid: id, Attributes: SE_PRIVILEGE_ENABLED }],
    };
    // SAFETY: the token is open, and the structure has as many entries as it says; what was before is not asked for.
    let done = unsafe {
        AdjustTokenPrivileges(token.as_raw_handle(), 0, &raw const wanted, 0, ptr::null_mut(), ptr::null_mut())
    };
    if done == 0 {
        return Err(lacking(io::Error::last_os_error()));
    }
    // The call succeeds also where it did nothing.
    // SAFETY: reads the thread's last error.
    match unsafe { GetLastError() } {
        ERROR_NOT_ALL_ASSIGNED => Err(lacking(io::Error::from_raw_os_error(ERROR_NOT_ALL_ASSIGNED.cast_signed()))),
        _ => Ok(()),
    }
}
