//! Control groups are Linux's: elsewhere nobody says that memory ran out.

use std::io;

/// Control groups are Linux's.
pub struct MemoryEvents;

/// There is none.
pub struct MemoryWatch;

impl MemoryEvents {
    /// There are none.
    pub fn ours() -> Option<Self> {
        None
    }

    /// Never.
    pub fn look(&mut self) -> bool {
        false
    }

    /// There is none.
    pub fn watch(&self) -> io::Result<MemoryWatch> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl MemoryWatch {
    /// Never.
    pub async fn changed(&mut self) -> io::Result<()> {
        std::future::pending().await
    }
}
