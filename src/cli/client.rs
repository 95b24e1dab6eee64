//! A small blocking Kafka client for the commands.
//!
//! One connection per broker, one request at a time. Every request is answered
//! within its time or the connection is given up; nothing is sent twice unless
//! the broker said that it was not done.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka_wire::RequestResponsePair;
use thiserror::Error;

use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::WireError;
use crate::wire::client::{
    ApiVersionsRequest, ApiVersionsResponse, common_version, decode_response, encode_request,
};
use crate::wire::small::{
    Bytes, KafkaRequest, MetadataRequest, MetadataResponse, StrBytes, metadata_request,
    metadata_response,
};

const CLIENT_ID: &str = "corelane-cli";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a broker may take beyond what the request itself allows it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest response that is read.
const RESPONSE_MAX: usize = 256 << 20;
/// How long what may pass by itself (an election, say) is tried again.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// How long a topic that the broker may create is waited for.
const CREATE_FOR: Duration = Duration::from_secs(5);
/// A connection unused for longer is not trusted: brokers close idle ones.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often a long wait looks whether it is to end.
const STOP_LOOK: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Why a broker could not be asked, or what it said instead of an answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers at any of the addresses.
    #[error(
        "cannot connect to {address}: {reason}; is the broker running? start one with `corelane serve`"
    )]
    Connect {
        /// What was tried.
        address: String,
        /// What the last try gave.
        reason: String,
    },
    /// The connection broke while a request was under way.
    #[error("lost the connection to {address} before the answer to {api}: {source}")]
    Lost {
        /// The broker.
        address: String,
        /// The request.
        api: String,
        /// What happened.
        source: io::Error,
    },
    /// The broker's bytes make no sense.
    #[error("{address} does not answer as a Kafka broker does: {source}")]
    Protocol {
        /// The broker.
        address: String,
        /// What is wrong.
        source: WireError,
    },
    /// The broker speaks no version of a request that this client speaks.
    #[error("{address} has no version of {api} in common with this client")]
    NoCommonVersion {
        /// The broker.
        address: String,
        /// The request.
        api: String,
    },
    /// The broker answered with an error.
    #[error("{what}: {}{}", ErrorCode::name(*code), detail(message))]
    Refused {
        /// What was asked.
        what: String,
        /// Kafka's error code.
        code: i16,
        /// What the broker said beside it.
        message: String,
    },
    /// The topic is not there.
    #[error("topic {0} does not exist; create it with `corelane topic create {0}`")]
    NoTopic(String),
    /// The command was told to stop while it waited for an answer.
    #[error("stopped while it waited for the answer to {0}")]
    Stopped(String),
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl ClientError {
    /// An error code that came as an answer; `what` begins the message.
    pub fn refused(what: impl Into<String>, code: i16, message: Option<&StrBytes>) -> Self {
        let message = message.map(|message| message.to_string()).unwrap_or_default();
        Self::Refused { what: what.into(), code, message }
    }

    /// Whether asking again may help.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if is_retriable(*code))
    }

    /// As [`ClientError::is_retriable`], for what does no harm if it is done
    /// twice: the broker may also be gone for a while.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Lost { .. }) || self.is_retriable()
    }
}

/// Whether the request was not done and may be sent again (Kafka's
/// `RetriableException`s, as far as these commands meet them). REQUEST_TIMED_OUT
/// is not among them: what it asked for may have been done.
pub fn is_retriable(code: i16) -> bool {
    const CODES: [i16; 16] = [
        3,   // UNKNOWN_TOPIC_OR_PARTITION: the topic's metadata is on its way.
        5,   // LEADER_NOT_AVAILABLE
        6,   // NOT_LEADER_OR_FOLLOWER
        9,   // REPLICA_NOT_AVAILABLE
        14,  // COORDINATOR_LOAD_IN_PROGRESS
        15,  // COORDINATOR_NOT_AVAILABLE
        16,  // NOT_COORDINATOR
        19,  // NOT_ENOUGH_REPLICAS
        41,  // NOT_CONTROLLER
        56,  // KAFKA_STORAGE_ERROR
        72,  // LISTENER_NOT_FOUND
        74,  // FENCED_LEADER_EPOCH
        75,  // UNKNOWN_LEADER_EPOCH
        78,  // OFFSET_NOT_AVAILABLE
        89,  // THROTTLING_QUOTA_EXCEEDED
        100, // UNKNOWN_TOPIC_ID
    ];
    CODES.contains(&code)
}

/// Waits between tries, longer each time, until its time is over.
#[derive(Debug)]
pub struct Retry {
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    /// Starts counting the time that most things are given.
    pub fn start() -> Self {
        Self::within(RETRY_FOR)
    }

    fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, pause: BACKOFF_MIN }
    }

    /// Waits, or returns false if the time is over.
    pub fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        true
    }
}

/// One connection, after the exchange of versions.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    address: String,
    versions: BTreeMap<i16, (i16, i16)>,
    next_correlation_id: i32,
    last_used: Instant,
}

impl Connection {
    fn open(address: &str) -> Result<Self, ClientError> {
        let stream = connect(address).map_err(|error| ClientError::Connect {
            address: address.to_owned(),
            reason: error.to_string(),
        })?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            versions: BTreeMap::new(),
            next_correlation_id: 1,
            last_used: Instant::now(),
        };
        let response = connection.api_versions()?;
        if response.error_code != ErrorCode::None.code() {
            let what = format!("{address} refuses this client");
            return Err(ClientError::refused(what, response.error_code, None));
        }
        connection.versions = response
            .api_keys
            .iter()
            .map(|row| (row.api_key, (row.min_version, row.max_version)))
            .collect();
        Ok(connection)
    }

    /// Asks in version 3, and in version 0 if the broker says so (KIP-511).
    fn api_versions(&mut self) -> Result<ApiVersionsResponse, ClientError> {
        let mut request = ApiVersionsRequest::default();
        request.client_software_name = StrBytes::from("corelane");
        request.client_software_version = StrBytes::from(env!("CARGO_PKG_VERSION"));
        let id = self.send(&request, 3)?;
        let frame = self.receive::<ApiVersionsRequest>(Duration::ZERO)?;
        let unsupported = ErrorCode::UnsupportedVersion.code().to_be_bytes();
        if frame.get(4..6) != Some(&unsupported) {
            return self.read::<ApiVersionsRequest>(frame, 3, id);
        }
        let id = self.send(&ApiVersionsRequest::default(), 0)?;
        let frame = self.receive::<ApiVersionsRequest>(Duration::ZERO)?;
        self.read::<ApiVersionsRequest>(frame, 0, id)
    }

    /// The version of `R` to speak, at most `ceiling`.
    fn version<R: KafkaRequest>(&self, ceiling: i16) -> Result<i16, ClientError> {
        self.versions
            .get(&R::API_KEY.value())
            .and_then(|(min, max)| common_version::<R>(*min, *max, ceiling))
            .ok_or_else(|| ClientError::NoCommonVersion {
                address: self.address.clone(),
                api: api_name::<R>(),
            })
    }

    fn send<R: KafkaRequest>(&mut self, request: &R, version: i16) -> Result<i32, ClientError> {
        self.last_used = Instant::now();
        let id = self.next_correlation_id;
        self.next_correlation_id = id.checked_add(1).unwrap_or(1);
        let frame = encode_request(request, version, id, CLIENT_ID)
            .map_err(|source| ClientError::Protocol { address: self.address.clone(), source })?;
        self.stream.write_all(&frame).map_err(|source| self.lost::<R>(source))?;
        Ok(id)
    }

    /// Reads a response frame, for which the broker may take `patience` and
    /// what it needs.
    fn receive<R: KafkaRequest>(&mut self, patience: Duration) -> Result<Bytes, ClientError> {
        let read = |stream: &mut TcpStream| -> io::Result<Result<Bytes, i32>> {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT + patience))?;
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix)?;
            let announced = i32::from_be_bytes(prefix);
            let Ok(len) = usize::try_from(announced) else {
                return Ok(Err(announced));
            };
            if !(4..=RESPONSE_MAX).contains(&len) {
                return Ok(Err(announced));
            }
            // The buffer grows with the bytes that arrive, not with what was announced.
            let mut frame = Vec::new();
            stream.take(len as u64).read_to_end(&mut frame)?;
            if frame.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Ok(Bytes::from(frame)))
        };
        let frame = read(&mut self.stream).map_err(|source| self.lost::<R>(source))?;
        frame.map_err(|announced| ClientError::Protocol {
            address: self.address.clone(),
            source: WireError::FrameLength { len: announced.into(), min: 4, max: RESPONSE_MAX },
        })
    }

    /// Waits until a response begins to come, or `stop` is raised.
    fn wait<R: KafkaRequest>(
        &mut self,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT + patience;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(ClientError::Stopped(api_name::<R>()));
            }
            let peeked = self
                .stream
                .set_read_timeout(Some(STOP_LOOK))
                .and_then(|()| self.stream.peek(&mut [0]));
            match peeked.map_err(|error| (error.kind(), error)) {
                Ok(_) => return Ok(()),
                Err((
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted,
                    _,
                )) if Instant::now() < deadline => {}
                Err((_, error)) => return Err(self.lost::<R>(error)),
            }
        }
    }

    fn read<R: RequestResponsePair>(
        &self,
        frame: Bytes,
        version: i16,
        correlation_id: i32,
    ) -> Result<R::Response, ClientError> {
        decode_response::<R>(frame, version, correlation_id)
            .map_err(|source| ClientError::Protocol { address: self.address.clone(), source })
    }

    fn lost<R: KafkaRequest>(&self, source: io::Error) -> ClientError {
        let source = match source.kind() {
            // What a socket's timeout looks like.
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer came"),
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed it")
            }
            _ => source,
        };
        ClientError::Lost { address: self.address.clone(), api: api_name::<R>(), source }
    }
}

fn api_name<R: KafkaRequest>() -> String {
    R::NAME.trim_end_matches("Request").to_owned()
}

/// Tries every address that the name resolves to.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The cluster as seen from its bootstrap addresses.
#[derive(Debug)]
pub struct Client {
    addresses: Vec<String>,
    bootstrap: Option<Connection>,
    nodes: BTreeMap<NodeId, String>,
    connections: BTreeMap<NodeId, Connection>,
    controller: Option<NodeId>,
}

/// The first of `addresses` that answers; otherwise what the last one gave.
fn open_first(addresses: &[String]) -> Result<Connection, ClientError> {
    let mut last = ClientError::Connect {
        address: "nothing".to_owned(),
        reason: "no address is given".to_owned(),
    };
    for address in addresses {
        match Connection::open(address) {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Who a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any broker.
    Any,
    /// The active controller, or any broker if it is not known.
    Controller,
    /// This broker.
    Node(NodeId),
}

impl Client {
    /// Connects to the first of `bootstrap` (`HOST:PORT`, separated by commas)
    /// that answers.
    pub fn connect(bootstrap: &str) -> Result<Self, ClientError> {
        let addresses = bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty());
        let mut client = Self {
            addresses: addresses.map(str::to_owned).collect(),
            bootstrap: None,
            nodes: BTreeMap::new(),
            connections: BTreeMap::new(),
            controller: None,
        };
        client.connection(Target::Any)?;
        Ok(client)
    }

    /// The connection to `target`, opened if need be.
    fn connection(&mut self, target: Target) -> Result<&mut Connection, ClientError> {
        let fresh = |connection: &Connection| connection.last_used.elapsed() < IDLE_MAX;
        self.bootstrap.take_if(|connection| !fresh(connection));
        self.connections.retain(|_, connection| fresh(connection));
        match self.node(target) {
            None => {
                if self.bootstrap.is_none() {
                    self.bootstrap = Some(open_first(&self.addresses)?);
                }
                Ok(self.bootstrap.as_mut().expect("it was there or has been opened"))
            }
            Some(node) => {
                if !self.connections.contains_key(&node) {
                    let address = self.nodes.get(&node).ok_or_else(|| ClientError::Connect {
                        address: format!("node {node}"),
                        reason: "the cluster does not say where it is".to_owned(),
                    })?;
                    self.connections.insert(node, Connection::open(address)?);
                }
                Ok(self.connections.get_mut(&node).expect("it was there or has been opened"))
            }
        }
    }

    fn node(&self, target: Target) -> Option<NodeId> {
        match target {
            Target::Any => None,
            Target::Controller => self.controller.filter(|node| self.nodes.contains_key(node)),
            Target::Node(node) => Some(node),
        }
    }

    /// Lets go of a connection that failed, so that the next call opens another.
    fn drop_connection(&mut self, target: Target) {
        match self.node(target) {
            None => self.bootstrap = None,
            Some(node) => drop(self.connections.remove(&node)),
        }
    }

    /// Sends a request, built for the version to speak (at most `ceiling`), and
    /// waits for its response. `patience` is what the request lets the broker
    /// wait by itself.
    pub fn call<R: RequestResponsePair>(
        &mut self,
        target: Target,
        ceiling: i16,
        patience: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        self.call_until(target, ceiling, patience, None, build)
    }

    /// As [`Client::call`], but gives up when `stop` is raised. What was asked for
    /// may be done all the same.
    pub fn call_until<R: RequestResponsePair>(
        &mut self,
        target: Target,
        ceiling: i16,
        patience: Duration,
        stop: Option<&AtomicBool>,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let result = self.connection(target).and_then(|connection| {
            let version = connection.version::<R>(ceiling)?;
            let id = connection.send(&build(version), version)?;
            if let Some(stop) = stop {
                connection.wait::<R>(patience, stop)?;
            }
            let frame = connection.receive::<R>(patience)?;
            connection.read::<R>(frame, version, id)
        });
        use ClientError::{Lost, Protocol, Stopped};
        if let Err(Lost { .. } | Protocol { .. } | Stopped(_)) = result {
            self.drop_connection(target);
        }
        result
    }

    /// Sends a request that has no response (Produce with acks=0).
    pub fn send<R: KafkaRequest>(
        &mut self,
        target: Target,
        ceiling: i16,
        request: &R,
    ) -> Result<(), ClientError> {
        let result = self.connection(target).and_then(|connection| {
            let version = connection.version::<R>(ceiling)?;
            connection.send(request, version).map(drop)
        });
        if let Err(ClientError::Lost { .. }) = result {
            self.drop_connection(target);
        }
        result
    }

    /// Metadata of `topics`, or of all with `None`; also learns where the
    /// brokers are.
    pub fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse, ClientError> {
        let response = self
            .call(Target::Any, 12, Duration::ZERO, |version| metadata(topics, create, version))?;
        self.nodes = response
            .brokers
            .iter()
            .map(|broker| {
                let host = broker.host.as_str();
                let brackets = host.contains(':');
                let address = if brackets {
                    format!("[{host}]:{}", broker.port)
                } else {
                    format!("{host}:{}", broker.port)
                };
                (NodeId(broker.node_id), address)
            })
            .collect();
        let nodes = &self.nodes;
        self.connections.retain(|node, connection| nodes.get(node) == Some(&connection.address));
        self.controller = Some(NodeId(response.controller_id));
        Ok(response)
    }

    /// `HOST:PORT` of a broker, as the last metadata said.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(String::as_str)
    }

    /// Metadata of one topic once it and all its partitions have leaders,
    /// waiting for them a bounded time. `create` lets the broker create it.
    pub fn topic(
        &mut self,
        name: &str,
        create: bool,
    ) -> Result<metadata_response::MetadataResponseTopic, ClientError> {
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        let (mut retry, mut creation) = (Retry::start(), Retry::within(CREATE_FOR));
        loop {
            let response = self.metadata(Some(&[name]), create)?;
            let topic = response.topics.into_iter().next().ok_or_else(|| {
                ClientError::refused(format!("metadata of topic {name}"), unknown, None)
            })?;
            if topic.error_code == unknown && !create {
                return Err(ClientError::NoTopic(name.to_owned()));
            }
            let code = match topic.error_code {
                0 => {
                    topic.partitions.iter().map(|partition| partition.error_code).find(|c| *c != 0)
                }
                code => Some(code),
            };
            let Some(code) = code else {
                return Ok(topic);
            };
            if code == unknown {
                if !creation.wait() {
                    return Err(ClientError::NoTopic(name.to_owned()));
                }
            } else if !is_retriable(code) || !retry.wait() {
                return Err(ClientError::refused(format!("topic {name}"), code, None));
            }
        }
    }
}

fn metadata(topics: Option<&[&str]>, create: bool, version: i16) -> MetadataRequest {
    let mut request = MetadataRequest::default();
    // Version 0 has no null; there an empty list is all topics.
    let all = if version == 0 { Some(Vec::new()) } else { None };
    request.topics = topics.map_or(all, |names| {
        let named = names.iter().map(|name| {
            let mut topic = metadata_request::MetadataRequestTopic::default();
            topic.name = Some(StrBytes::from(*name));
            topic
        });
        Some(named.collect())
    });
    if version >= 4 {
        request.allow_auto_topic_creation = create;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::RequestHeader;
    use crate::wire::small::encode_response;
    use std::net::TcpListener;

    /// A broker that answers the frames of one connection by `answer`, which is
    /// given the header and the body of each.
    fn broker(
        mut answer: impl FnMut(&RequestHeader<'_>, &[u8]) -> Vec<u8> + Send + 'static,
    ) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut prefix = [0; 4];
            while stream.read_exact(&mut prefix).is_ok() {
                let mut frame = vec![0; i32::from_be_bytes(prefix) as usize];
                stream.read_exact(&mut frame).expect("a whole frame");
                let (header, body) = RequestHeader::decode(&frame).expect("a header");
                stream.write_all(&answer(&header, &frame[body..])).expect("sent");
            }
        });
        (address, thread)
    }

    #[test]
    fn versions_are_agreed_and_leaders_waited_for() {
        let mut asked = 0;
        let (address, thread) = broker(move |header, body| {
            let (mut out, id) = (Vec::new(), header.correlation_id);
            if header.is_api_versions() {
                crate::wire::api_versions::encode_response(&mut out, header.api_version, id);
                return out;
            }
            assert_eq!((header.api_key, header.api_version), (3, 12));
            let request: MetadataRequest =
                crate::wire::small::decode(body, header.api_version).expect("a request");
            assert!(request.allow_auto_topic_creation);
            let mut response = MetadataResponse::default();
            let mut topic = metadata_response::MetadataResponseTopic::default();
            topic.name = request.topics.expect("one")[0].name.clone();
            topic.error_code = if asked == 0 { 5 } else { 0 };
            asked += 1;
            response.topics = vec![topic];
            encode_response(&mut out, id, header.api_version, &response).expect("representable");
            out
        });
        let mut client = Client::connect(&format!("127.0.0.1:1, {address}")).expect("connects");
        let topic = client.topic("t", true).expect("there at the second try");
        assert_eq!(topic.name.as_deref(), Some("t"));
        drop(client);
        thread.join().expect("no failure");
    }

    #[test]
    fn an_old_broker_is_asked_again_in_version_zero() {
        let (address, thread) = broker(|header, _| {
            let (mut out, id) = (Vec::new(), header.correlation_id);
            match header.api_version {
                3 => crate::wire::api_versions::encode_unsupported_version(&mut out, id),
                _ => crate::wire::api_versions::encode_response(&mut out, 0, id),
            }
            out
        });
        let mut client = Client::connect(&address).expect("connects");
        let connection = client.connection(Target::Any).expect("open");
        assert_eq!(connection.version::<MetadataRequest>(9).expect("spoken"), 9);
        drop(client);
        thread.join().expect("no failure");
    }

    #[test]
    fn errors_say_what_to_do() {
        // A port that was free a moment ago.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = Client::connect(&address).expect_err("nobody there").to_string();
        assert!(error.starts_with(&format!("cannot connect to {address}: ")), "{error}");
        assert!(error.ends_with("start one with `corelane serve`"), "{error}");

        let (address, thread) = broker(|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        let error = Client::connect(&address).expect_err("not Kafka").to_string();
        assert!(error.starts_with(&format!("{address} does not answer as a Kafka")), "{error}");
        thread.join().expect("no failure");

        let message = StrBytes::from("why");
        let error = ClientError::refused("topic t", 36, Some(&message));
        assert_eq!(error.to_string(), "topic t: TOPIC_ALREADY_EXISTS (why)");
        assert!(!error.is_retriable() && is_retriable(6) && !is_retriable(7));
    }
}
