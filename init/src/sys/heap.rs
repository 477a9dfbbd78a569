//! The C library's heap.

/// Has the heap keep the memory that is given back to it, up to 32 MiB.
///
/// glibc maps a large block of its own from the kernel, or trims the heap's top when a few of them are free (mallopt(3):
/// M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). The HTTP client takes and gives such blocks all the time, and after each
/// the kernel would fault in and clear the pages of the next. The gain was not told apart from noise when measured.
#[cfg(target_env = "gnu")]
pub fn keep_freed_memory() {
    const KEPT: libc::c_int = 32 << 20;
    // SAFETY: mallopt only sets parameters of the allocator. What it refuses stays as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Other C libraries have no such parameters.
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}
