//! What every part of the bench uses: the two ways to a connection, and the time that it may take.

use crate::process::signals;
use poolhouse::postgres::{Client, Config, NoTls};
use poolhouse::settings::{SslMode, Start};
use poolhouse::{Error, Pool, PoolSettings};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How many connections the pool opens at the same time.
const POOL_CONNECTORS: u32 = 4;

/// The most callers at once.
pub(super) const MOST_CALLERS: u32 = 64;

/// Why a part has no figures.
#[derive(Debug)]
pub(super) enum Halt {
    /// Ctrl-C.
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

/// How a connection for one query is made.
#[derive(Debug)]
enum Way {
    /// By the driver, as code without a pool does.
    Driver(Box<Config>),
    /// By opening a pool of one: the pool encrypts by itself, and the driver needs another crate for that.
    PoolOfOne,
}

/// A connection that was made for one piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Once {
    pub(super) connecting: Duration,
    /// Connecting, the work, and closing, which the pool of one does later.
    pub(super) total: Duration,
}

#[derive(Debug)]
pub(super) struct Stage {
    settings: PoolSettings,
    way: Way,
    /// Added to every connect.
    pub(super) delay: Duration,
    /// For all parts together.
    budget: Duration,
}

impl Stage {
    /// `is_encrypted`: the pool's connections are.
    pub(super) fn new(
        configured: &PoolSettings,
        is_encrypted: bool,
        delay: Duration,
        budget: Duration,
    ) -> Stage {
        let mut settings = configured.clone();
        settings.start = Start::Fail;
        settings.max_overflow = 0;
        // The most callers at once wait for each other, on a slow server too.
        settings.max_waiting = settings.max_waiting.max(MOST_CALLERS);
        settings.acquire_timeout = settings.acquire_timeout.max(Duration::from_secs(10));
        settings.queue_target = None;
        let database = &settings.database;
        // Never in clear where the settings require encryption.
        let way = match (database.sslmode, is_encrypted) {
            (SslMode::Disable, _) | (SslMode::Prefer, false) => {
                let mut config = database.driver_config();
                config.connect_timeout(settings.connect_timeout);
                Way::Driver(Box::new(config))
            }
            _ => Way::PoolOfOne,
        };
        Stage { settings, way, delay, budget }
    }

    /// Who makes a connection for one query, for the report.
    pub(super) fn way(&self) -> &'static str {
        match self.way {
            Way::Driver(_) => "the driver",
            Way::PoolOfOne => "a pool of one",
        }
    }

    /// A part of the budget, in percent.
    pub(super) fn share(&self, percent: u32) -> Duration {
        self.budget * percent / 100
    }

    /// Connects, runs `work`, and disconnects.
    pub(super) fn connect_once(
        &self,
        work: impl FnOnce(&mut Client) -> Result<(), Error>,
    ) -> Result<Once, Error> {
        let start = Instant::now();
        sleep(self.delay);
        match &self.way {
            Way::Driver(config) => {
                let mut client = config.connect(NoTls)?;
                let connecting = start.elapsed();
                work(&mut client)?;
                client.close()?;
                Ok(Once { connecting, total: start.elapsed() })
            }
            Way::PoolOfOne => {
                let pool = Pool::open(&self.pool_settings(1))?;
                let mut connection = pool.get_connection()?;
                let connecting = start.elapsed();
                work(connection.client())?;
                Ok(Once { connecting, total: start.elapsed() })
            }
        }
    }

    /// Opens a pool of `size` connections, all of them now: one opened later would have no delay.
    pub(super) fn open_pool(&self, size: u32) -> Result<Pool, Halt> {
        if signals::wait(self.delay * size.div_ceil(POOL_CONNECTORS)) {
            return Err(Halt::Stopped);
        }
        Ok(Pool::open(&self.pool_settings(size))?)
    }

    fn pool_settings(&self, size: u32) -> PoolSettings {
        self.settings.clone().with_min_connections(size).with_max_connections(size)
    }
}

/// Fails once the run is to stop.
pub(super) fn go_on() -> Result<(), Halt> {
    if signals::is_shutdown_requested() { Err(Halt::Stopped) } else { Ok(()) }
}
