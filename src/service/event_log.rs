//! Windows' event log, for errors: where people look first.
//!
//! Source: learn.microsoft.com, "Event Sources", "`ReportEventW` function".

use crate::platform::wide;
use std::io;
use std::ptr;
use std::sync::mpsc::{self, Sender, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS};
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, RegisterEventSourceW, ReportEventW,
};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_SET_VALUE, REG_DWORD, REG_EXPAND_SZ, REG_OPTION_NON_VOLATILE, RegCloseKey,
    RegCreateKeyExW, RegDeleteKeyW, RegSetValueExW,
};

/// The text of a message is all that there is to it. Every Windows has a program whose messages of these numbers, 1 to
/// 1000, are just that.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";
const EVENT: u32 = 1;

/// An event holds at most so many UTF-16 units a text.
const MOST: usize = 31_000;

/// So many messages wait at most: whoever logs must not wait for the event log.
const WAITING: usize = 64;

/// How long the end of the service waits for the event log.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// The event log, as one source of its events. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    messages: Option<SyncSender<Item>>,
}

enum Item {
    Error(String),
    /// Everything before it is written when this is dropped.
    Mark(#[expect(dead_code, reason = "held, never used")] Sender<()>),
}

impl EventLog {
    /// A source of that name, known to the system or not.
    pub fn open(source: &str) -> Self {
        let (messages, waiting) = mpsc::sync_channel(WAITING);
        let source = source.to_owned();
        let thread = thread::Builder::new().name("event log".into()).stack_size(64 * 1024);
        let started = thread.spawn(move || {
            while let Ok(item) = waiting.recv() {
                match item {
                    Item::Error(text) => report(&source, &text),
                    Item::Mark(_) => {}
                }
            }
        });
        Self { messages: started.is_ok().then_some(messages) }
    }

    /// Writes an error, in a moment; where too many wait it is left to the log.
    pub fn tell(&self, text: &str) {
        if let Some(messages) = &self.messages {
            let _ = messages.try_send(Item::Error(text.to_owned()));
        }
    }

    /// Waits until what was told is written, for a moment.
    pub fn flush(&self) {
        let Some(messages) = &self.messages else { return };
        let (mark, written) = mpsc::channel();
        let mut item = Item::Mark(mark);
        let deadline = Instant::now() + LAST_FLUSH;
        while let Err(TrySendError::Full(again)) = messages.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = again;
            thread::sleep(Duration::from_millis(20));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn report(source: &str, text: &str) {
    // SAFETY: the name ends with a zero; what comes back is a handle or null.
    let handle = unsafe { RegisterEventSourceW(ptr::null(), wide(source).as_ptr()) };
    if handle.is_null() {
        return;
    }
    let mut text = wide(text);
    if text.len() > MOST {
        text.truncate(MOST - 1);
        text.push(0);
    }
    let texts = [text.as_ptr()];
    // SAFETY: there is one text, which ends with a zero and lives, and no data.
    unsafe {
        ReportEventW(handle, EVENTLOG_ERROR_TYPE, 0, EVENT, ptr::null_mut(), 1, 0, texts.as_ptr(), ptr::null());
    }
    // SAFETY: the handle is open, and used no more.
    unsafe { DeregisterEventSource(handle) };
}

fn key_of(source: &str) -> Vec<u16> {
    wide(format!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\{source}"))
}

/// Makes the source known, so that its messages are shown as they are.
///
/// # Errors
/// What the registry answers.
pub fn register(source: &str) -> io::Result<()> {
    let mut key: HKEY = ptr::null_mut();
    // SAFETY: the name ends with a zero; what is written is a key, which is ours.
    checked(unsafe {
        RegCreateKeyExW(
            HKEY_LOCAL_MACHINE,
            key_of(source).as_ptr(),
            0,
            ptr::null(),
            REG_OPTION_NON_VOLATILE,
            KEY_SET_VALUE,
            ptr::null(),
            &raw mut key,
            ptr::null_mut(),
        )
    })?;
    let file: Vec<u8> = wide(MESSAGES).into_iter().flat_map(u16::to_le_bytes).collect();
    let types = 7_u32.to_le_bytes();
    let set = |name: &str, kind, value: &[u8]| {
        let size = u32::try_from(value.len()).unwrap_or(0);
        // SAFETY: the key is open, the name ends with a zero, and the value has the size that is given.
        checked(unsafe { RegSetValueExW(key, wide(name).as_ptr(), 0, kind, value.as_ptr(), size) })
    };
    let result = set("EventMessageFile", REG_EXPAND_SZ, &file).and_then(|()| set("TypesSupported", REG_DWORD, &types));
    // SAFETY: the key is open, and used no more.
    unsafe { RegCloseKey(key) };
    result
}

/// Has the system forget the source.
///
/// # Errors
/// What the registry answers.
pub fn unregister(source: &str) -> io::Result<()> {
    // SAFETY: the name ends with a zero.
    match unsafe { RegDeleteKeyW(HKEY_LOCAL_MACHINE, key_of(source).as_ptr()) } {
        ERROR_FILE_NOT_FOUND => Ok(()),
        code => checked(code),
    }
}

fn checked(code: u32) -> io::Result<()> {
    if code == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(code.cast_signed())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_errors_than_there_is_room_for_hold_nobody_up() {
        let log = EventLog::open("start-worker-test");
        for number in 0..3 * WAITING {
            log.tell(&format!("the test's error {number}"));
        }
        log.flush();
        let nobody = EventLog { messages: None };
        nobody.tell("nobody hears this");
        nobody.flush();
    }

    #[test]
    fn a_source_is_registered_and_forgotten_as_often_as_one_likes() {
        let source = format!("start-worker-test-{}", std::process::id());
        for _ in 0..2 {
            register(&source).unwrap();
        }
        for _ in 0..2 {
            unregister(&source).unwrap();
        }
    }
}
