//! What members of the classic protocol are told by a group of the consumer
//! protocol.
//!
//! A group without members becomes a classic one when such a member joins.

use crate::group::classic::Group;
use crate::group::request::{Ask, Asker, Response};
use crate::group::step::{Step, Then, Todo};
use crate::model::error_code::ErrorCode;

impl Group {
    /// JoinGroup, SyncGroup, Heartbeat, LeaveGroup.
    pub(in crate::group) fn classic_ask(&mut self, asker: Asker, ask: Ask, step: &mut Step<'_>) {
        match ask {
            Ask::Join(join) if join.member_id.is_empty() && self.is_empty() => {
                self.become_classic(step);
                self.join(asker, *join, step);
            }
            Ask::Join(_) => {
                step.answer(asker, ask.refuse(&self.id, ErrorCode::InconsistentGroupProtocol));
            }
            Ask::Leave(rows) => {
                let codes = vec![ErrorCode::UnknownMemberId; rows.len()];
                step.answer(asker, Response::Left(ErrorCode::None, codes));
            }
            ask => step.answer(asker, ask.refuse(&self.id, ErrorCode::UnknownMemberId)),
        }
    }

    /// Forgets that it was a group of the consumer protocol, whose last member
    /// has left.
    fn become_classic(&mut self, step: &mut Step<'_>) {
        self.consumer_resign(step);
        let Some(consumer) = self.consumer.take() else { return };
        let records = consumer.tombstones(&self.id);
        if !records.is_empty() {
            self.writes += 1;
            step.out.push(Todo::Write(records, Then::Nothing(self.id.clone())));
        }
    }
}
