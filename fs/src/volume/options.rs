//! How a volume is mounted.

use crate::format::item::Timestamp;
use copy_backend::{GivenProfile, OffloadBelow, RouteChoice, VerifyMode};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Who cleans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GcMode {
    /// A thread, ahead of need.
    #[default]
    Background,
    /// Nobody, until asked or until a writer needs space.
    Manual,
}

/// When reading changes the access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtimeMode {
    /// When it is older than the last change, or than a day.
    #[default]
    Relatime,
    /// Always.
    Strict,
    /// Never.
    None,
}

/// Which accesses are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Atimes {
    /// When.
    pub mode: AtimeMode,
    /// Those of directories, too.
    pub directories: bool,
}

impl From<AtimeMode> for Atimes {
    fn from(mode: AtimeMode) -> Self {
        Self { mode, directories: true }
    }
}

impl Default for Atimes {
    fn default() -> Self {
        Self { mode: AtimeMode::default(), directories: true }
    }
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timestamp { sec: since.as_secs() as i64, nsec: since.subsec_nanos() },
            Err(before) => Timestamp { sec: -(before.duration().as_secs() as i64) - 1, nsec: 0 },
        }))
    }
    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Mount options.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Change nothing, not even by recovery: replay happens in memory.
    pub read_only: bool,
    /// Roads that copies may take.
    pub copy_route: RouteChoice,
    /// Verification of copies.
    pub verify: VerifyMode,
    /// Layers of the kernel's that copies are sent below.
    pub offload_below: OffloadBelow,
    /// What was measured on the devices.
    pub copy_profile: Option<GivenProfile>,
    /// Who cleans.
    pub gc: GcMode,
    /// Victim policy.
    pub policy: gc::Policy,
    /// Placement policy.
    pub placement: String,
    /// Bytes of metadata kept in memory.
    pub cache_size: u64,
    /// Seconds after which everything acknowledged is made durable unasked.
    pub commit_seconds: u32,
    /// Tell conventional devices what was freed.
    pub discard: bool,
    /// Access times.
    pub atime: Atimes,
    /// Where the cleaner writes its trace.
    pub trace: Option<PathBuf>,
    /// Time.
    pub clock: Clock,
    /// Secret of the new epoch; `None`: from the system's random source. Simulations give it.
    pub secret: Option<[u8; 32]>,
}

impl MountOptions {
    /// Those that stay as long as the volume is mounted, as mount(8) writes them.
    pub fn words(&self) -> Vec<String> {
        let route = match self.copy_route {
            RouteChoice::Auto => "auto",
            RouteChoice::Offload => "offload",
            RouteChoice::Host => "host",
        };
        let verify = match self.verify {
            VerifyMode::Off => "off",
            VerifyMode::Sampled => "sampled",
            VerifyMode::Full => "full",
        };
        let below = match (self.offload_below.dm, self.offload_below.md) {
            (false, false) => "none",
            (true, false) => "dm",
            (false, true) => "md",
            (true, true) => "dm,md",
        };
        let gc = match self.gc {
            GcMode::Background => "background",
            GcMode::Manual => "manual",
        };
        let mut words = vec![
            format!("copy_route={route}"),
            format!("offload_below={below}"),
            format!("verify_copies={verify}"),
            format!("gc={gc}"),
            format!("policy={}", self.policy),
            format!("placement={}", self.placement),
            format!("cache_size={}", self.cache_size),
            format!("commit={}", self.commit_seconds),
            (if self.discard { "discard" } else { "nodiscard" }).to_owned(),
        ];
        words.extend(self.copy_profile.as_ref().map(|profile| format!("copy_profile={}", profile.path.display())));
        words
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            copy_route: RouteChoice::default(),
            verify: VerifyMode::default(),
            offload_below: OffloadBelow::default(),
            copy_profile: None,
            gc: GcMode::default(),
            policy: gc::Policy::default(),
            placement: "default".into(),
            cache_size: 128 << 20,
            commit_seconds: 5,
            discard: false,
            atime: Atimes::default(),
            trace: None,
            clock: Clock::system(),
            secret: None,
        }
    }
}
