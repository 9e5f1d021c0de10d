//! Named pipes, one way each: the server's end is ours.
//!
//! Source: learn.microsoft.com, "`CreateNamedPipeW` function", "Named Pipe Security and Access Rights".

use crate::platform::{Descriptor, wide};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::io::{FromRawHandle, IntoRawHandle, OwnedHandle};
use tokio::net::windows::named_pipe::NamedPipeServer;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_INBOUND, PIPE_ACCESS_OUTBOUND,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_WAIT,
};

/// The buffer of each pipe, in bytes.
const BUFFER: u32 = 64 * 1024;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The other side.
    ToUs,
    /// We.
    FromUs,
}

/// Makes a pipe that nobody has made before us, for one client of this machine.
///
/// # Errors
/// What the system says: that access is denied, or the pipe busy, where another process has one of that name.
pub fn create(name: &str, direction: Direction, access: &Descriptor) -> io::Result<OwnedHandle> {
    let attributes = access.attributes();
    let direction = match direction {
        Direction::ToUs => PIPE_ACCESS_INBOUND,
        Direction::FromUs => PIPE_ACCESS_OUTBOUND,
    };
    // SAFETY: the name ends with a zero, the attributes and their descriptor live; what comes back is a handle or an error.
    let handle = unsafe {
        CreateNamedPipeW(
            wide(name).as_ptr(),
            direction | FILE_FLAG_FIRST_PIPE_INSTANCE | FILE_FLAG_OVERLAPPED,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            1,
            BUFFER,
            BUFFER,
            0,
            &raw const attributes,
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// A pipe whose client has connected, as a stream.
///
/// # Errors
/// What the system says.
pub fn stream(pipe: OwnedHandle) -> io::Result<NamedPipeServer> {
    // SAFETY: the handle is that of a pipe's server, made for overlapped operations, and given away here.
    unsafe { NamedPipeServer::from_raw_handle(pipe.into_raw_handle()) }
}

/// Both ends of a pipe: ours as a stream, the other as a child takes it.
///
/// # Errors
/// What the system says.
pub fn pair(direction: Direction) -> io::Result<(NamedPipeServer, File)> {
    let name = format!(r"\\.\pipe\start-worker-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let ours = create(&name, direction, &Descriptor::of_pipe(&[])?)?;
    let theirs = match direction {
        Direction::ToUs => OpenOptions::new().write(true).open(&name)?,
        Direction::FromUs => OpenOptions::new().read(true).open(&name)?,
    };
    Ok((stream(ours)?, theirs))
}
