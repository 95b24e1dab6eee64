//! Kernel, limits, clock, CPU and memory.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use super::{Finding, bytes};
use crate::config::Settings;
use crate::runtime;
use crate::shard::MemoryShares;

/// The oldest kernel that is known to have all that is used.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Descriptors below which a busy broker may run out.
const OPEN_FILES_MIN: u64 = 65_536;
/// Nanoseconds that reading a good clock takes at most.
const CLOCK_NANOS_MAX: f64 = 200.0;
/// Receive buffers of one core, which `corelane.memory` does not count.
const BUFFERS_PER_CORE: u64 = 1 << 20;

/// All findings.
pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let mut found = vec![
        kernel(&read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        open_files(runtime::raise_open_files()),
        clock(read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref()),
        governor(&governors()),
        cores(settings.cores, &runtime::cpus()),
    ];
    found.extend(memory(settings, read("/proc/meminfo").as_deref()));
    if settings.huge_pages {
        found.push(huge_pages(read("/sys/kernel/mm/transparent_hugepage/enabled").as_deref()));
    }
    found
}

/// The trimmed content of a file of the kernel, if it is there.
pub(super) fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        Some(version) if version >= KERNEL_MIN => Finding::ok("kernel", release),
        _ => Finding::warn(
            "kernel",
            release,
            "Linux 6.1 or newer is what is tested; whether this one does is seen at io_uring",
        ),
    }
}

fn open_files(raised: std::io::Result<u64>) -> Finding {
    const ADVICE: &str = "raise the hard limit: LimitNOFILE=1048576 in the systemd unit, or nofile \
                          in /etc/security/limits.conf";
    match raised {
        Ok(limit) if limit >= OPEN_FILES_MIN => {
            Finding::ok("open files", format!("up to {limit} (the broker raises the soft limit)"))
        }
        Ok(limit) => {
            let found = format!("at most {limit}: each connection and each open log takes some");
            Finding::warn("open files", found, ADVICE)
        }
        Err(error) => Finding::fail("open files", format!("the limit: {error}"), ADVICE),
    }
}

fn clock(source: Option<&str>) -> Finding {
    const READINGS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..READINGS {
        black_box(Instant::now());
    }
    clock_that_takes(source, start.elapsed().as_nanos() as f64 / f64::from(READINGS))
}

fn clock_that_takes(source: Option<&str>, nanos: f64) -> Finding {
    let found = format!("{}, {nanos:.0} ns a reading", source.unwrap_or("not told"));
    let known = [Some("tsc"), Some("kvm-clock"), Some("arch_sys_counter"), None];
    if known.contains(&source) && nanos <= CLOCK_NANOS_MAX {
        return Finding::ok("clock source", found);
    }
    let advice = "each event is timed; have tsc: see \
                  /sys/devices/system/clocksource/clocksource0/available_clocksource, and dmesg for \
                  why the kernel does not trust it";
    Finding::warn("clock source", found, advice)
}

/// The governor of each CPU that has one.
fn governors() -> Vec<String> {
    let paths = runtime::cpus().into_iter();
    let path = |cpu| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
    paths.filter_map(|cpu| read(&path(cpu))).collect()
}

fn governor(governors: &[String]) -> Finding {
    let Some(slow) = governors.iter().find(|governor| *governor != "performance") else {
        let found = if governors.is_empty() {
            "none: this kernel does not choose the frequency"
        } else {
            "performance"
        };
        return Finding::ok("CPU governor", found);
    };
    Finding::warn(
        "CPU governor",
        slow.as_str(),
        "a core that sleeps and wakes is slow at first: cpupower frequency-set -g performance",
    )
}

fn cores(wanted: u16, cpus: &[usize]) -> Finding {
    let found = format!("{wanted} of {} CPUs that this process may use", cpus.len());
    if cpus.is_empty() {
        return Finding::warn("cores", "which CPUs there are is not told", "nothing is pinned");
    }
    if usize::from(wanted) <= cpus.len() {
        return Finding::ok("cores", found);
    }
    Finding::warn("cores", found, "several cores share a CPU: lower corelane.cores")
}

fn memory(settings: &Settings, meminfo: Option<&str>) -> Vec<Finding> {
    let shares = MemoryShares::of(settings);
    let found = format!(
        "{}, for each of {} cores {}: logs {}, requests {}, answers {}; outside of it {} of \
         receive buffers, and tables that grow with connections and open logs",
        bytes(settings.memory),
        settings.cores,
        bytes(settings.memory / u64::from(settings.cores.max(1))),
        bytes(shares.logs as u64),
        bytes(shares.receive as u64),
        bytes(shares.answers as u64),
        bytes(BUFFERS_PER_CORE * u64::from(settings.cores)),
    );
    let number = |name: &str| {
        let line = meminfo?.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    let mut findings = vec![match number("MemTotal:") {
        Some(total) if settings.memory > total / 10 * 9 => Finding::warn(
            "memory",
            found,
            format!("this machine has {}: lower corelane.memory", bytes(total)),
        ),
        _ => Finding::ok("memory", found),
    }];
    if let (Some(total), Some(free)) = (number("SwapTotal:"), number("SwapFree:"))
        && total > free
    {
        findings.push(Finding::warn(
            "swap",
            format!("{} of {} in use", bytes(total - free), bytes(total)),
            "a core that waits for its own memory stalls: sysctl -w vm.swappiness=1, or no swap",
        ));
    }
    findings
}

/// `enabled` has all values, the one that holds in brackets.
fn huge_pages(enabled: Option<&str>) -> Finding {
    match enabled.and_then(|values| values.split_once('[')?.1.split_once(']')) {
        Some((value @ ("madvise" | "always"), _)) => Finding::ok("huge pages", value),
        other => Finding::warn(
            "huge pages",
            other.map_or("none: this kernel has no transparent huge pages", |(value, _)| value),
            "corelane.memory.huge.pages gains nothing here: \
             echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::config::{Machine, Settings};

    #[test]
    fn machines_good_and_bad() {
        use Level::{Fail, Ok as Good, Warn};
        let error = || std::io::Error::from_raw_os_error(1);
        let rows = [
            (kernel("6.18.44-fc"), Good),
            (kernel("6.1"), Good),
            (kernel("5.15.0-101-generic"), Warn),
            (kernel(""), Warn),
            (open_files(Ok(1 << 20)), Good),
            (open_files(Ok(4096)), Warn),
            (open_files(Err(error())), Fail),
            (clock_that_takes(Some("tsc"), 25.0), Good),
            (clock_that_takes(Some("tsc"), 700.0), Warn),
            (clock_that_takes(Some("hpet"), 150.0), Warn),
            (governor(&[]), Good),
            (governor(&["performance".to_owned(), "powersave".to_owned()]), Warn),
            (cores(4, &[0, 1, 2, 3]), Good),
            (cores(5, &[0, 1, 2, 3]), Warn),
            (huge_pages(Some("always [madvise] never")), Good),
            (huge_pages(Some("always madvise [never]")), Warn),
            (huge_pages(None), Warn),
        ];
        for (finding, level) in rows {
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.advice.is_empty(), level == Good, "{finding:?}");
        }
    }

    #[test]
    fn how_memory_is_spent() {
        let machine = Machine { cores: 2, memory_bytes: 4 << 30, hostname: "box".to_owned() };
        let (settings, _) = Settings::resolve(&[], &machine).expect("defaults");
        let found =
            memory(&settings, Some("MemTotal: 4194304 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB"));
        assert_eq!((found.len(), found[0].level), (1, Level::Ok));
        let expected = "2 GiB, for each of 2 cores 1 GiB: logs 640 MiB, requests 256 MiB, answers \
                        128 MiB; ";
        assert!(found[0].found.starts_with(expected), "{found:?}");
        let small =
            memory(&settings, Some("MemTotal: 2097152 kB\nSwapTotal: 9 kB\nSwapFree: 8 kB"));
        assert!(small.len() == 2 && small.iter().all(|finding| finding.level == Level::Warn));
    }
}
