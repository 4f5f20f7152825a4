//! How much memory the machine has, and how much of it programs can still get.

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs can get without swapping, as the kernel reckons.
    pub available: u64,
}

/// Asks the kernel. `None` if it doesn't say.
pub fn measure() -> Option<Memory> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<Memory> {
    let of = |name: &str| {
        let mut lines = meminfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        total: of("MemTotal")?,
        available: of("MemAvailable")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_and_others_are_no_answer() {
        let said = "MemTotal:       24684200 kB\nMemFree: 1 kB\nMemAvailable:   22041020 kB\n";
        let memory = Memory {
            total: 24_684_200 * 1024,
            available: 22_041_020 * 1024,
        };
        assert_eq!(parse(said), Some(memory));
        for odd in ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
        assert!(measure().is_some_and(|memory| memory.total > memory.available));
    }
}
