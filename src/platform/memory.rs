//! Letting go of what only the boot needed.

use nix::libc;
use std::ffi::{CStr, c_int, c_void};

/// The kernel's own part of every process, which is no file.
const VDSO: &[u8] = b"linux-vdso";

/// Gives back what the system can have again: heap that is free, and the pages of programs' files that are only read, which
/// the kernel brings back from its cache where they are touched. Costs a millisecond, once.
pub fn let_go() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and moves nothing.
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: the callback has the type that is asked for, keeps nothing that it is given, and doesn't unwind.
    unsafe {
        libc::dl_iterate_phdr(Some(give_back), std::ptr::null_mut());
    }
}

/// Gives back the pages of the segments of a program or library that can't be written to. What is relocated lies in one
/// that can, however it is protected afterwards. The loader's lock is held meanwhile, so none of them goes away.
///
/// Source: `dl_iterate_phdr(3)`, `elf(5)`, `madvise(2)`.
extern "C" fn give_back(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader gives us its description of an object that is loaded, and of that object's headers.
    let (base, name, headers) = unsafe {
        let info = &*info;
        let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        (info.dlpi_addr, name, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    if name.to_bytes().starts_with(VDSO) {
        return 0;
    }
    // SAFETY: it asks for nothing.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else { return 0 };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // Whole pages only: what shares one with another segment stays.
        let place = usize::try_from(base + header.p_vaddr).ok().zip(usize::try_from(header.p_filesz).ok());
        let Some((address, length)) = place else { continue };
        let (begin, end) = (address.next_multiple_of(page), (address + length) / page * page);
        if begin < end {
            // SAFETY: nothing is ever written to these pages of a file, so what is read there next is what was read there
            // before; and the loader's lock keeps them mapped.
            unsafe {
                libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED);
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_works_afterwards() {
        let before: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        for _ in 0..3 {
            let_go();
        }
        assert!(before.iter().zip(0_u32..).all(|(byte, number)| *byte == number.to_le_bytes()[0]));
        assert!(std::panic::catch_unwind(|| Vec::<u8>::new()[0]).is_err());
    }
}
