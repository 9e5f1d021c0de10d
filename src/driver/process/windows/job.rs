//! A job: processes that end together, all descendants included.
//!
//! Source: learn.microsoft.com, "Job Objects", "`AssignProcessToJobObject` function". A job within a job is allowed since
//! Windows 8, so that a worker can put its tasks into jobs of their own; none of them may leave ours (no
//! `JOB_OBJECT_LIMIT_BREAKAWAY_OK`). But all processes of a job are of one session: where a worker starts some in another
//! one, none of what it starts is in the job, and its descendants are found by who started whom.

use crate::platform::{checked, size_of_u32};
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK, JOBOBJECT_BASIC_PROCESS_ID_LIST, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectBasicProcessIdList, JobObjectExtendedLimitInformation, QueryInformationJobObject, SetInformationJobObject,
    TerminateJobObject,
};

/// As many of a job's processes are named at most.
const MOST_NAMED: usize = 256;

/// A job that ends with its last handle: with us, whatever becomes of us.
pub struct Job(OwnedHandle);

impl Job {
    /// A job without processes, whose handle nobody inherits: for a process and all that it starts, or for it alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(alone: bool) -> io::Result<Self> {
        // SAFETY: no attributes and no name are given; what comes back is a handle or null.
        let handle = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the handle is open and ours alone.
        let job = Self(unsafe { OwnedHandle::from_raw_handle(handle) });
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags =
            JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | if alone { JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK } else { 0 };
        // SAFETY: the structure is that of this class, and has that size.
        let done = unsafe {
            SetInformationJobObject(
                job.0.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_u32::<JOBOBJECT_EXTENDED_LIMIT_INFORMATION>(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(job) }
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// What the system says.
    pub fn assign(&self, process: BorrowedHandle<'_>) -> io::Result<()> {
        // SAFETY: both handles are open.
        checked(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process.as_raw_handle()) })
    }

    /// Ends all of its processes, each with this exit code.
    ///
    /// # Errors
    /// What the system says.
    pub fn terminate(&self, code: u32) -> io::Result<()> {
        // SAFETY: the handle is open.
        checked(unsafe { TerminateJobObject(self.0.as_raw_handle(), code) })
    }

    /// The ids of its processes; of very many some.
    ///
    /// # Errors
    /// What the system says.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        /// The structure of that class with room for more than one id.
        #[repr(C)]
        struct List {
            head: JOBOBJECT_BASIC_PROCESS_ID_LIST,
            rest: [usize; MOST_NAMED - 1],
        }
        let mut list = List { head: JOBOBJECT_BASIC_PROCESS_ID_LIST::default(), rest: [0; MOST_NAMED - 1] };
        // SAFETY: the structure begins as that class does, and has that size: the rest takes more ids.
        let done = unsafe {
            QueryInformationJobObject(
                self.0.as_raw_handle(),
                JobObjectBasicProcessIdList,
                (&raw mut list).cast(),
                size_of_u32::<List>(),
                std::ptr::null_mut(),
            )
        };
        let error = io::Error::last_os_error();
        let more = windows_sys::Win32::Foundation::ERROR_MORE_DATA.cast_signed();
        if done == 0 && error.raw_os_error() != Some(more) {
            return Err(error);
        }
        let count = (list.head.NumberOfProcessIdsInList as usize).min(MOST_NAMED);
        let ids = list.head.ProcessIdList.into_iter().chain(list.rest).take(count);
        Ok(ids.filter_map(|id| u32::try_from(id).ok()).collect())
    }
}
