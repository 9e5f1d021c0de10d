//! The least worker there is: its first instructions read the clock, and what they read is in the file `started` of its folder
//! then, as the seconds and nanoseconds since 1970 in the machine's own form.
//!
//! It is compiled by itself (`Boots` in `boot.rs`) and needs nothing of what other programs do before their `main`: to load
//! libraries, above all, which would take as long as start-worker does for its part.

#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::panic::PanicInfo;

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub const WRITE: usize = 1;
    pub const EXIT: usize = 60;
    pub const CLOCK_GETTIME: usize = 228;
    pub const OPENAT: usize = 257;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    pub const OPENAT: usize = 56;
    pub const WRITE: usize = 64;
    pub const EXIT: usize = 93;
    pub const CLOCK_GETTIME: usize = 113;
}

const CLOCK_REALTIME: usize = 0;
const CURRENT_FOLDER: usize = -100_isize as usize;
const WRITE_ONLY_AND_CREATE: usize = 0o101;

/// # Safety
/// As the system call asks.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> usize {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: the kernel keeps all registers but these.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// As the system call asks.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> usize {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: the kernel keeps all registers but this.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, options(nostack))
    };
    result
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("call {}", sym started);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("bl {}", sym started);
}

extern "C" fn started() -> ! {
    let mut now = [0_i64; 2];
    let time = now.as_mut_ptr() as usize;
    // SAFETY: `now` is a `timespec` on 64-bit Linux; the name ends with a zero; the process ends here.
    unsafe {
        call(numbers::CLOCK_GETTIME, [CLOCK_REALTIME, time, 0, 0]);
        let file = call(numbers::OPENAT, [CURRENT_FOLDER, c"started".as_ptr() as usize, WRITE_ONLY_AND_CREATE, 0o600]);
        let written = call(numbers::WRITE, [file, time, size_of_val(&now), 0]);
        call(numbers::EXIT, [usize::from(written != size_of_val(&now)), 0, 0, 0]);
    }
    loop {}
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}
