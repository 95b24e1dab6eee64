//! Asks the coordinator of one group, which it finds first, and again when it has
//! moved.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kafka_wire::RequestResponsePair;

use super::super::client::{Client, ClientError, Retry, Target};
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::small::{FindCoordinatorRequest, StrBytes};

/// Versions from 4 on ask for several groups.
const FIND_VERSION_MAX: i16 = 3;

/// The way to the coordinator of a group.
#[derive(Debug)]
pub struct Coordinator {
    group: String,
    node: Option<NodeId>,
}

impl Coordinator {
    /// That of `group`, wherever it is.
    pub fn of(group: &str) -> Self {
        Self { group: group.to_owned(), node: None }
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The broker that coordinates the group.
    ///
    /// # Errors
    /// None is found within the time that most things are given.
    pub fn find(&mut self, client: &mut Client) -> Result<NodeId, ClientError> {
        let mut retry = Retry::start();
        loop {
            match self.find_once(client) {
                Err(error) if error.is_retriable() && retry.wait() => {}
                result => return result,
            }
        }
    }

    fn find_once(&mut self, client: &mut Client) -> Result<NodeId, ClientError> {
        if let Some(node) = self.node {
            return Ok(node);
        }
        // Where the brokers are; of no topic.
        client.metadata(Some(&[]), false)?;
        let found = client.call(Target::Any, FIND_VERSION_MAX, Duration::ZERO, |_| {
            let mut request = FindCoordinatorRequest::default();
            request.key = StrBytes::from(self.group.as_str());
            request
        })?;
        match found.error_code {
            0 => Ok(*self.node.insert(NodeId(found.node_id))),
            code => {
                let what = format!("cannot find the coordinator of group {}", self.group);
                Err(ClientError::refused(what, code, found.error_message.as_ref()))
            }
        }
    }

    /// Sends a request to the coordinator; while `code` finds in the answer that
    /// it is another one, or not ready, again. Any other code is the caller's.
    ///
    /// # Errors
    /// As [`Client::call_until`], and the coordinator's refusal if that lasts.
    pub fn ask<R: RequestResponsePair>(
        &mut self,
        client: &mut Client,
        ceiling: i16,
        patience: Duration,
        stop: Option<&AtomicBool>,
        build: impl Fn(i16) -> R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClientError> {
        const ELSEWHERE: [ErrorCode; 3] = [
            ErrorCode::CoordinatorLoadInProgress,
            ErrorCode::CoordinatorNotAvailable,
            ErrorCode::NotCoordinator,
        ];
        let mut retry = Retry::start();
        loop {
            let target = Target::Node(self.find(client)?);
            let response = client.call_until(target, ceiling, patience, stop, &build);
            let response = response.inspect_err(|_| self.node = None)?;
            let refused = code(&response);
            if ELSEWHERE.iter().all(|elsewhere| elsewhere.code() != refused) {
                return Ok(response);
            }
            self.node = None;
            if !retry.wait() {
                let what = format!("the coordinator of group {}", self.group);
                return Err(ClientError::refused(what, refused, None));
            }
        }
    }
}
