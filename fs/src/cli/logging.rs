//! Where the daemon's words go: the terminal while there is one, then the file of `--log` or the system log.

use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Facility "daemon", severity "warning", as syslog writes them: words that matter less are not logged.
const PRIORITY: u8 = 3 << 3 | 4;

enum Target {
    Terminal,
    File(File),
    System(UnixDatagram),
    Nowhere,
}

/// The log of this process.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Target>>);

impl Log {
    /// Starts logging: warnings and errors, or what `FERRYFS_LOG` asks for.
    pub fn start(file: Option<File>) -> Self {
        let log = Self(Arc::new(Mutex::new(file.map_or(Target::Terminal, Target::File))));
        let filter = EnvFilter::try_from_env("FERRYFS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false).with_target(false);
        // A second log in one process (tests) is no harm.
        let _ = subscriber.try_init();
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        log
    }

    /// The terminal is gone: whatever went there goes to the system log from now on.
    pub fn detach(&self) {
        let mut target = self.0.lock();
        if matches!(*target, Target::Terminal) {
            let socket = UnixDatagram::unbound().and_then(|socket| socket.connect("/dev/log").map(|()| socket));
            *target = socket.map_or(Target::Nowhere, Target::System);
        }
    }
}

/// One line on its way.
pub struct Line {
    log: Log,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A log that cannot be written to is no reason to fail.
        let _ = match &mut *self.log.0.lock() {
            Target::Terminal => std::io::stderr().write_all(&self.text),
            Target::File(file) => file.write_all(&self.text),
            Target::System(socket) => {
                let mut message = format!("<{PRIORITY}>ferryfs[{}]: ", std::process::id()).into_bytes();
                message.extend_from_slice(self.text.trim_ascii());
                socket.send(&message).map(|_| ())
            }
            Target::Nowhere => Ok(()),
        };
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), text: Vec::new() }
    }
}
