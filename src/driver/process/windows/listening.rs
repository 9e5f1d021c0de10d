//! A named pipe that waits for its one client, which must be a process of a certain service.

use super::process_tree::{self, Pinned};
use crate::platform::checked;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use windows_sys::Win32::Foundation::{ERROR_IO_PENDING, ERROR_NO_DATA, ERROR_PIPE_CONNECTED};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{ConnectNamedPipe, DisconnectNamedPipe, GetNamedPipeClientProcessId};
use windows_sys::Win32::System::Threading::{CreateEventW, SetEvent};

/// A pipe that waits for its client.
pub struct Listening {
    pipe: OwnedHandle,
    /// Signalled when a client has come.
    pub event: OwnedHandle,
    /// From a `Box`: the system's while a client is waited for.
    overlapped: *mut OVERLAPPED,
    pending: bool,
    /// The client's process, once it is the right one.
    pub client: Option<Pinned>,
}

impl Listening {
    pub fn begin(pipe: OwnedHandle) -> io::Result<Self> {
        let event = event()?;
        let mut listening =
            Self { pipe, event, overlapped: Box::into_raw(Box::default()), pending: false, client: None };
        listening.listen()?;
        Ok(listening)
    }

    pub const fn is_accepted(&self) -> bool {
        self.client.is_some()
    }

    fn listen(&mut self) -> io::Result<()> {
        loop {
            let overlapped = OVERLAPPED { hEvent: self.event.as_raw_handle(), ..OVERLAPPED::default() };
            // SAFETY: nothing is under way, so the structure is ours.
            unsafe { self.overlapped.write(overlapped) };
            // SAFETY: the pipe was made for overlapped operations, and the structure lives until this one has ended.
            if unsafe { ConnectNamedPipe(self.pipe.as_raw_handle(), self.overlapped) } != 0 {
                return self.signal();
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error().map(i32::cast_unsigned) {
                Some(ERROR_IO_PENDING) => {
                    self.pending = true;
                    return Ok(());
                }
                Some(ERROR_PIPE_CONNECTED) => return self.signal(),
                // It has been here, and is gone.
                Some(ERROR_NO_DATA) => self.disconnect()?,
                _ => return Err(error),
            }
        }
    }

    /// A client came: whose process is it? That of `service`, or below it, or else we listen on.
    pub fn look(&mut self, service: Option<&Pinned>) -> io::Result<()> {
        if std::mem::take(&mut self.pending) {
            let mut none = 0;
            // SAFETY: the structure is that of the operation that has just ended.
            if unsafe { GetOverlappedResult(self.pipe.as_raw_handle(), self.overlapped, &raw mut none, 0) } == 0 {
                tracing::debug!("a client did not connect: {}", io::Error::last_os_error());
                self.disconnect()?;
                return self.listen();
            }
        }
        let mut client = 0;
        // SAFETY: the handle is that of a pipe's server; what is written is a number.
        let known = unsafe { GetNamedPipeClientProcessId(self.pipe.as_raw_handle(), &raw mut client) } != 0;
        // Its number stays its own while whose it is is asked.
        let client = Pinned::of(client);
        if let Some(service) = service
            && known
            && process_tree::is_within(client.id, service.id)?
        {
            self.client = Some(client);
            return Ok(());
        }
        let (id, name) = (client.id, process_tree::name(client.id).unwrap_or_else(|| "?".to_owned()));
        tracing::warn!(
            "the process {id} ({name}) connected to the worker's pipe, but is none of the service's: turned away"
        );
        self.disconnect()?;
        self.listen()
    }

    fn signal(&self) -> io::Result<()> {
        // SAFETY: the handle is that of an event, and open.
        checked(unsafe { SetEvent(self.event.as_raw_handle()) })
    }

    fn disconnect(&self) -> io::Result<()> {
        // SAFETY: the handle is that of a pipe's server. What the client wrote goes with it.
        checked(unsafe { DisconnectNamedPipe(self.pipe.as_raw_handle()) })
    }

    /// The pipe by itself: it has a client, so nothing is under way.
    pub fn into_pipe(self) -> io::Result<OwnedHandle> {
        self.pipe.try_clone()
    }

    /// Ends an operation that is under way: its structure must not go before it.
    fn end(&mut self) {
        if std::mem::take(&mut self.pending) {
            let mut none = 0;
            // SAFETY: the structure is that of the operation; the second call waits until that has ended.
            unsafe {
                CancelIoEx(self.pipe.as_raw_handle(), self.overlapped);
                GetOverlappedResult(self.pipe.as_raw_handle(), self.overlapped, &raw mut none, 1);
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end();
        // SAFETY: it was made by `Box`, and nothing is under way that would use it.
        drop(unsafe { Box::from_raw(self.overlapped) });
    }
}

/// An event that resets itself is of no use here: who looks at it may look again.
pub fn event() -> io::Result<OwnedHandle> {
    // SAFETY: no attributes and no name are given; what comes back is a handle, which nobody inherits, or null.
    let handle = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}
