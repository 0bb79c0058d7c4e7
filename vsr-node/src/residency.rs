//! That the memory of the plan is there when it is needed: huge pages, and pages that stay.
//!
//! `--prefault` is not here: whoever allocates touches. What is here is asked of the system, which may
//! refuse. Nothing of it is needed to be right, so a refusal is a warning that says why and what to do.
//!
//! **Huge pages.** A page of 2 MiB instead of 512 of 4 KiB costs one fault instead of 512, and one place
//! in the processor's table of pages. The C library hands them out when it is told so before it starts
//! (`glibc.malloc.hugetlb` in `GLIBC_TUNABLES`), for everything that is allocated, so no pool needs to
//! know of it: the process sets the variable and begins anew, before it has allocated anything. Whether
//! pages came is then looked at, not assumed.
//!
//! **Locked pages.** Nothing of the process is ever written to a swap device (`mlockall`): neither is a
//! reply late because a page must be read back, nor do data that live in memory only end up on a disk.

use std::io;

use vsr_types::memory::Pool;

use crate::config::{Config, show_size};
use crate::plan::Plan;

/// The variable by which the C library is told.
pub const TUNABLES: &str = "GLIBC_TUNABLES";
/// Says that this process has begun anew for them already. The C library takes its own variable out of the
/// environment of programs with capabilities of their own, so that alone would not end.
const TRIED: &str = "VSR_BEGAN_FOR_HUGE_PAGES";
const HUGE: &str = "glibc.malloc.hugetlb";
/// Where the system says whether pages become huge ones by themselves, on request, or never.
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What the variable must be so that huge pages are handed out: reserved ones if there are enough for
/// `bytes`, else such as the system puts together; none when it says something about them already.
fn tunables(before: Option<&str>, meminfo: &str, bytes: usize) -> Option<String> {
    let others = before.filter(|text| !text.is_empty());
    if others.is_some_and(|text| text.contains(HUGE)) {
        return None;
    }
    let kind = if reserved_bytes(meminfo) >= bytes {
        2
    } else {
        1
    };
    Some(match others {
        Some(others) => format!("{others}:{HUGE}={kind}"),
        None => format!("{HUGE}={kind}"),
    })
}

/// Huge pages that were reserved (`vm.nr_hugepages`) and are free, in bytes.
fn reserved_bytes(meminfo: &str) -> usize {
    let count = number_behind(meminfo, "HugePages_Free:").unwrap_or(0);
    let kibibytes = number_behind(meminfo, "Hugepagesize:").unwrap_or(0);
    count * kibibytes * 1024
}

/// The number in the line that begins with `name`.
fn number_behind(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Begins this process anew with huge pages, if the configuration wants them and it has not done so.
/// To be called before anything is started or allocated. Returns only when there is nothing to do, or
/// when it does not work, which is logged.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn begin_with_huge_pages(config: &Config) {
    use std::os::unix::process::CommandExt as _;
    if !config.huge_pages {
        return;
    }
    let before = std::env::var(TUNABLES).ok();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = Plan::of_key_values(config).bytes_at_start();
    let Some(value) = tunables(before.as_deref(), &meminfo, bytes) else {
        return;
    };
    if std::env::var_os(TRIED).is_some() {
        tracing::warn!(
            "no huge pages: the system does not let this program say {TUNABLES}, as for programs with \
             capabilities of their own (setcap); give the capability to the service instead"
        );
        return;
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return tracing::warn!(%error, "no huge pages: this program cannot be found"),
    };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let command = command.args(arguments).env(TUNABLES, value);
    let error = command.env(TRIED, "1").exec();
    tracing::warn!(%error, "no huge pages: this process cannot begin anew");
}

/// Huge pages for everything are handed out by glibc on Linux only.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn begin_with_huge_pages(_: &Config) {}

/// Everything is allocated: locks it if that is wanted, and looks whether what was asked for came.
pub(crate) fn settle(config: &Config, plan: &Plan) {
    if config.huge_pages {
        tell_of_huge_pages(plan);
    }
    if config.mlock {
        match lock() {
            Ok(()) => tracing::info!("all memory is locked: nothing is ever swapped"),
            Err(error) => tracing::warn!(
                %error,
                "memory is not locked: allow this process at least {} of locked memory \
                 (ulimit -l; LimitMEMLOCK=infinity in a systemd unit; --ulimit memlock=-1 or \
                 CAP_IPC_LOCK for a container), or go on without --mlock, best without swap",
                show_size(plan.bytes() + BESIDE),
            ),
        }
    }
}

/// What a process needs besides the plan, in bytes: code, runtime, stacks. Measured, and rounded up.
const BESIDE: usize = 64 << 20;

/// What of the plan is allocated in pieces that are large enough to lie in huge pages, but for their ends.
fn large_bytes(plan: &Plan) -> usize {
    let is_large = |pool: &&Pool| {
        // Large units are allocated one by one, small ones together.
        let piece = if pool.size >= 256 << 10 {
            pool.size
        } else {
            pool.bytes()
        };
        piece >= LARGE && !pool.is_later
    };
    let large = plan.pools().iter().filter(is_large);
    large.map(Pool::bytes).sum()
}

/// Pieces of this size lie in huge pages of 2 MiB, but for a quarter at most.
const LARGE: usize = 8 << 20;

fn tell_of_huge_pages(plan: &Plan) {
    let (have, want) = (huge_bytes().unwrap_or(0), large_bytes(plan));
    let size = |bytes| show_size(bytes);
    if have as usize >= want / 4 * 3 {
        tracing::info!("{} lie in huge pages", size(have as usize));
        return;
    }
    let enabled = std::fs::read_to_string(TRANSPARENT).unwrap_or_default();
    tracing::warn!(
        transparent_hugepage = enabled.trim(),
        told_to_the_library = std::env::var(TUNABLES).unwrap_or_default(),
        "{} of {} lie in huge pages: {}",
        size(have as usize),
        size(want),
        advice(&enabled, have > 0),
    );
}

/// What an operator can do so that huge pages come.
fn advice(enabled: &str, some_came: bool) -> &'static str {
    if enabled.contains("[never]") {
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or reserve pages with sysctl \
         vm.nr_hugepages"
    } else if some_came {
        "the system has no more in one piece: reserve pages early after its start, with sysctl \
         vm.nr_hugepages"
    } else {
        "none came: they need glibc 2.35 or later, and memory that is touched at the start (not \
         --no-prefault)"
    }
}

/// How much of this process lies in huge pages, in bytes, where the system says it.
#[must_use]
pub fn huge_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    Some(huge_bytes_in(&text))
}

fn huge_bytes_in(rollup: &str) -> u64 {
    let names = ["AnonHugePages:", "Shared_Hugetlb:", "Private_Hugetlb:"];
    let kibibytes: usize = names
        .iter()
        .filter_map(|name| number_behind(rollup, name))
        .sum();
    kibibytes as u64 * 1024
}

/// Locks what the process has now. What is mapped later is not: it is little, and a bound on locked
/// memory must not end a process that runs.
#[cfg(target_os = "linux")]
fn lock() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    Ok(mlockall(MlockAllFlags::CURRENT)?)
}

#[cfg(not(target_os = "linux"))]
fn lock() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 24683240 kB\nHugePages_Total: 512\nHugePages_Free: 500\n\
                           Hugepagesize:       2048 kB\n";

    #[test]
    fn reserved_pages_are_used_when_there_are_enough_and_nobodys_wish_is_overwritten() {
        assert_eq!(reserved_bytes(MEMINFO), 1000 << 20);
        assert_eq!(reserved_bytes("nothing of it"), 0);
        let want = |before, bytes| tunables(before, MEMINFO, bytes);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(want(None, 1000 << 20), text("glibc.malloc.hugetlb=2"));
        assert_eq!(want(Some(""), 1001 << 20), text("glibc.malloc.hugetlb=1"));
        let others = Some("glibc.malloc.check=3");
        let both = "glibc.malloc.check=3:glibc.malloc.hugetlb=2";
        assert_eq!(want(others, 1), text(both));
        assert_eq!(
            want(Some("glibc.malloc.hugetlb=0"), 1),
            None,
            "told already"
        );
    }

    #[test]
    fn huge_pages_of_every_kind_are_counted() {
        let rollup = "Rss: 9000 kB\nAnonHugePages:    4096 kB\nShmemPmdMapped: 0 kB\n\
                      Private_Hugetlb:  2048 kB\n";
        assert_eq!(huge_bytes_in(rollup), 6 << 20);
    }

    #[test]
    fn advice_fits_what_the_system_says() {
        assert!(advice("always madvise [never]", false).contains("echo madvise"));
        assert!(advice("always [madvise] never", true).contains("vm.nr_hugepages"));
        assert!(advice("always [madvise] never", false).contains("glibc"));
    }
}
