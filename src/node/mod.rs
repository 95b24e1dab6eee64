//! One broker: boot, signals, the order of its stop.
//!
//! Boot: take the log directory, probe the kernel, bind, start the control
//! thread, then a pinned thread per core. A core accepts connections as soon as
//! it has the first image; logs open when they are first used. Stop (SIGTERM or
//! SIGINT): the controller tells all shards, which drain and close their logs;
//! then the directory is marked clean. A second signal ends the process at once.

#![expect(clippy::disallowed_methods, reason = "boot is timed, and a second signal needs a thread")]

mod data_dir;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use self::data_dir::{DataDir, DataDirError};
use crate::base::limits::{SYNCS_ALONE_MAX, SYNCS_ALONE_PER_CORE_MIN};
use crate::config::{Endpoint, Settings, validate_topic_config};
use crate::control::{self, ControlOptions, Meter, ShardEndpoint, StartError};
use crate::controller::ControllerOptions;
use crate::controller::decide::Policy;
use crate::controller::files::LogLimits;
use crate::metadata::image::Node;
use crate::model::ids::CoreId;
use crate::runtime::{
    self, BindError, ControlInbox, Mailboxes, ProbeError, Reactor, ReactorConfig,
};
use crate::shard::Shard;
use crate::shard::event::Wake;

/// Why the broker did not start, or did not stop well.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The log directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The kernel lacks something.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting names a host that is not known.
    #[error("{0}={1}: no such host")]
    NoHost(&'static str, String),
    /// The admin address cannot be listened on.
    #[error("{0}; set corelane.admin.listener to another address, or to nothing for none")]
    Admin(BindError),
    /// The controller cannot start.
    #[error(transparent)]
    Control(#[from] StartError),
    /// A thread or a ring cannot be made.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The stop left something open; the next start recovers.
    #[error("not every log could be closed; the next start will check them")]
    Unclean,
}

impl NodeError {
    /// Whether the user asked for something that cannot be had (exit status 2).
    pub fn is_usage(&self) -> bool {
        !matches!(self, NodeError::Unclean | NodeError::Io(..))
    }
}

/// Runs a broker until a signal asks it to stop. Tells on standard output
/// where it listens as soon as it does.
///
/// # Errors
/// See [`NodeError`].
pub fn run(mut settings: Settings) -> Result<(), NodeError> {
    let started = std::time::Instant::now();
    // Signals from here on end in an orderly stop.
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|error| NodeError::Io("signals", error))?;
    // Clients are told the whole path (DescribeLogDirs).
    settings.log_dir =
        std::path::absolute(&settings.log_dir).map_err(|error| NodeError::Io("log.dirs", error))?;
    let address = address_of("listeners", &settings.listener)?;
    let admin = settings.admin_listener.as_ref();
    let admin = admin.map(|at| address_of("corelane.admin.listener", at)).transpose()?;
    let data = DataDir::open(&settings.log_dir, settings.node_id)?;
    let open_files = runtime::raise_open_files()
        .map_err(|error| NodeError::Io("the limit of open files", error))?;
    let capabilities = runtime::probe(data.path())?;
    for warning in &capabilities.warnings {
        eprintln!("warning: {warning}");
    }
    let skip_sync = runtime::skip_sync_from_environment();
    let cores = settings.cores;
    let listeners = runtime::bind(address, usize::from(cores))?;
    let bound = listeners[0].local_addr().map_err(|error| NodeError::Io("a listener", error))?;

    let io = |what| move |error| NodeError::Io(what, error);
    let admin = admin.map(|address| runtime::bind(address, 1)).transpose();
    let admin = admin.map_err(NodeError::Admin)?.and_then(|mut listeners| listeners.pop());
    let admin_bound = admin.as_ref().map(|listener| listener.local_addr()).transpose();
    let admin_bound = admin_bound.map_err(io("the admin listener"))?;

    let (links, endpoints) = control::links(cores).map_err(io("queues to the controller"))?;
    let (measuring, meters) = control::meters(&endpoints).map_err(io("queues to the admin"))?;
    let options = controller_options(&settings, &data, bound);
    let control = control::spawn(options, links)?;
    if !data.journals {
        eprintln!("warning: the disk is full: there are no journals");
        settings.journal_bytes = 0;
    }

    let settings = Arc::new(settings);
    let cpus = runtime::cpus();
    let mut threads = vec![];
    let queues = endpoints.into_iter().zip(meters);
    let parts = Mailboxes::mesh(usize::from(cores)).into_iter().zip(listeners).zip(queues);
    for (core, ((mailboxes, listener), (endpoint, meter))) in (0..cores).zip(parts) {
        let mut config = ReactorConfig::new(mailboxes, data.path().to_owned());
        config.listeners = vec![listener];
        config.control = Some(inbox(endpoint).map_err(io("an eventfd"))?);
        config.unsafe_skip_sync = skip_sync;
        let cpu = cpus.get(usize::from(core)).copied();
        let mut shard = Shard::new(CoreId(core), settings.clone(), data.clean);
        // The other half is for connections and what the process itself has open.
        let share = open_files / 2 / u64::from(cores);
        shard.limit_open_files(usize::try_from(share).unwrap_or(usize::MAX));
        // The file system is one for all cores.
        let alone = SYNCS_ALONE_MAX / usize::from(cores);
        shard.limit_syncs_alone(alone.max(SYNCS_ALONE_PER_CORE_MIN));
        let body = move |reactor: &mut Reactor| {
            drive(reactor, &mut shard, meter);
            report(core, &mut shard, reactor);
        };
        threads.push(runtime::spawn(config, cpu, body).map_err(io("a core's thread"))?);
    }
    if let Some(listener) = admin {
        control::serve_admin(listener, measuring, control.state()).map_err(io("admin threads"))?;
    }
    announce(&settings, &data, (bound, admin_bound), &cpus, started.elapsed());

    signals.forever().next();
    eprintln!("corelane: stopping; a second signal ends it at once");
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            std::process::exit(128 + signal);
        }
    });
    let clean = control.stop();
    for thread in threads {
        thread.join().expect("a panic of a core ends the process");
    }
    if !clean {
        return Err(NodeError::Unclean);
    }
    data.mark_clean()?;
    eprintln!("corelane: stopped, all logs closed");
    Ok(())
}

/// The loop of one core, until its shard has stopped.
fn drive(reactor: &mut Reactor, shard: &mut Shard, mut meter: Meter) {
    let mut next = Wake::Now;
    while next != Wake::Stopped {
        reactor.turn(next, |now, event, effects| shard.step(now, event, effects));
        next = shard.wake();
        meter.answer(|snapshot| {
            shard.measure(snapshot);
            reactor.measure(snapshot);
        });
    }
}

/// Where to listen for `setting`.
fn address_of(setting: &'static str, at: &Endpoint) -> Result<SocketAddr, NodeError> {
    let host = if at.host.is_empty() { "0.0.0.0" } else { &at.host };
    let name = format!("{host}:{}", at.port);
    let unknown = || NodeError::NoHost(setting, name.clone());
    let mut found = (host, at.port).to_socket_addrs().map_err(|_| unknown())?;
    found.next().ok_or_else(unknown)
}

fn controller_options(settings: &Settings, data: &DataDir, bound: SocketAddr) -> ControlOptions {
    let advertised = &settings.advertised;
    let port = if advertised.port == 0 { bound.port() } else { advertised.port };
    // Each start draws other election timeouts and topic ids.
    let seed = uuid::Uuid::new_v4().as_u64_pair();
    ControlOptions {
        data: data.path().to_owned(),
        controller: ControllerOptions {
            node: Node {
                id: settings.node_id,
                host: advertised.host.as_str().into(),
                port,
                cores: settings.cores,
            },
            cluster_id: data.cluster_id.as_str().into(),
            directory_id: data.directory_id,
            policy: Policy {
                num_partitions: settings.num_partitions,
                default_replication_factor: settings.default_replication_factor,
                validate_config: validate_topic_config,
                topics: settings.topics.clone(),
                consumer: settings.groups.consumer.clone(),
            },
            log: LogLimits::default(),
            seed: seed.0 ^ seed.1,
        },
    }
}

/// A core's end of the queues to and from the controller.
fn inbox(endpoint: ShardEndpoint) -> std::io::Result<ControlInbox> {
    let eventfd = endpoint.eventfd().try_clone_to_owned()?;
    let endpoint = Arc::new(std::sync::Mutex::new(endpoint));
    let receiver = endpoint.clone();
    Ok(ControlInbox {
        eventfd,
        receive: Box::new(move || receiver.lock().expect("one thread uses it").receive()),
        send: Box::new(move |message| {
            let sent = endpoint.lock().expect("one thread uses it").send(message);
            // The controller bounds what a core may have open; see control::link.
            assert!(sent.is_ok(), "the queue to the controller has room");
        }),
    })
}

/// Says what a core has done, once it has stopped.
fn report(core: u16, shard: &mut Shard, reactor: &Reactor) {
    let (done, kernel) = (shard.counters().replicas, reactor.counters());
    eprintln!(
        "corelane: core {core}: {} batches appended ({} bytes), {} fetches ({} bytes), \
         {} connections, {} messages to and {} from other cores, {} turns",
        done.appended_batches,
        done.appended_bytes,
        done.fetches,
        done.fetched_bytes,
        kernel.sockets.accepted,
        kernel.mail_sent,
        kernel.mail_received,
        kernel.turns,
    );
}

/// Says where everything is.
fn announce(
    settings: &Settings,
    data: &DataDir,
    (bound, admin): (SocketAddr, Option<SocketAddr>),
    cpus: &[usize],
    took: std::time::Duration,
) {
    let pinned: Vec<String> =
        cpus.iter().take(usize::from(settings.cores)).map(ToString::to_string).collect();
    let admin = admin.map(|at| format!("\n  admin    http://{at}/health, /metrics"));
    let admin = admin.unwrap_or_default();
    let state = if data.clean { "" } else { " (not closed by a last run: logs are checked)" };
    let text = format!(
        "corelane {} ready in {} ms\n  kafka    {bound}{admin}\n  cores    {} pinned to CPU {}\n  data     {}{state}\n  cluster  {}, node {}\n",
        env!("CARGO_PKG_VERSION"),
        took.as_millis(),
        settings.cores,
        pinned.join(", "),
        data.path().canonicalize().unwrap_or_else(|_| data.path().to_owned()).display(),
        data.cluster_id,
        settings.node_id,
    );
    // Nobody may be reading; that is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
