//! InitProducerId (KIP-98, KIP-360): ids for idempotent producers.
//!
//! The controller gives each core blocks of ids, which are never given out
//! twice; what is left of a block at a stop is lost. Transactions do not exist
//! yet: a transactional id is refused with an error that clients do not retry.

use super::{Answer, Call, Outcome, Pending, ProducerIds};
use crate::metadata::command::{Command, Refusal};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::{self, InitProducerIdRequest, InitProducerIdResponse};

use std::ops::Range;

/// An InitProducerId answer that waits for a block of ids.
#[derive(Debug)]
pub struct PendingProducerId {
    version: i16,
    correlation_id: i32,
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    ids: &mut ProducerIds,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: InitProducerIdRequest = small::decode(body, call.version)?;
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingProducerId { version, correlation_id };
    if request.transactional_id.is_some() {
        pending.encode(Err(ErrorCode::TransactionalIdAuthorizationFailed), answer)?;
        return Ok(Outcome::Done);
    }
    // Without a transactional id every producer gets an id of its own, also one
    // that wants to go on after an error (`TransactionCoordinator.handleInitProducerId`).
    match ids.block.next() {
        Some(id) => {
            pending.encode(Ok(id), answer)?;
            Ok(Outcome::Done)
        }
        None => Ok(Outcome::Command(Pending::ProducerId(pending), Command::AllocateProducerIds)),
    }
}

impl PendingProducerId {
    pub(super) fn respond(
        self,
        block: Result<Range<i64>, Refusal>,
        ids: &mut ProducerIds,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let id = match block {
            Ok(block) => {
                // Of two blocks asked for at the same time one is given up.
                ids.block = block;
                ids.block.next().ok_or(ErrorCode::CoordinatorNotAvailable)
            }
            Err(refusal) => Err(refusal.code),
        };
        self.encode(id, answer)
    }

    fn encode(self, id: Result<i64, ErrorCode>, answer: &mut Answer) -> Result<(), WireError> {
        let mut response = InitProducerIdResponse::default();
        match id {
            Ok(id) => response.producer_id = id,
            Err(error) => {
                response.error_code = error.code();
                response.producer_id = -1;
                response.producer_epoch = -1;
            }
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
