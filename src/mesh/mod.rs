//! Messages between the cores of one broker, and the credit that bounds them.
//!
//! A request for a partition of this core takes the same message as one for
//! another core. Whoever asks reserves the place of the answer first
//! ([`Credit`]): a core has at most [`MAIL_OPEN_MAX`] requests open at another,
//! each with at most one cancellation and one answer, so mailboxes of
//! [`MAILBOX_LEN`](crate::base::limits::MAILBOX_LEN) places never overflow and
//! two full ones never wait for each other.

use std::collections::VecDeque;

use crate::base::limits::MAIL_OPEN_MAX;
use crate::effect::disk::DiskError;
use crate::group::request::{self as group, Asker};
use crate::model::ids::CoreId;
use crate::replica::work::{Origin, Work};

/// A message from one core to another.
#[derive(Debug)]
pub enum Mail {
    /// Work on partitions of the receiver.
    Request {
        /// Who gets it back.
        origin: Origin,
        /// What to do.
        work: Work,
    },
    /// Finished work.
    Answer {
        /// Who asked.
        origin: Origin,
        /// The work, filled in.
        work: Work,
    },
    /// The origin needs no more than what there is: answer this fetch.
    CancelFetch {
        /// Who asked.
        origin: Origin,
    },
    /// A request for the group coordinators of the receiver.
    Group {
        /// Who gets the answer.
        asker: Asker,
        /// The request.
        request: Box<group::Request>,
    },
    /// The answer to [`Mail::Group`].
    GroupAnswer {
        /// Who asked.
        asker: Asker,
        /// The answer.
        response: Box<group::Response>,
    },
    /// The request is kept, perhaps for long: it needs no credit any more. Its
    /// answer will be [`Mail::GroupLate`].
    GroupParked,
    /// The answer to what was parked. It takes credit as a request does, since
    /// no place is reserved for it, until [`Mail::GroupLateTaken`].
    GroupLate {
        /// Who asked.
        asker: Asker,
        /// The answer.
        response: Box<group::Response>,
    },
    /// A late answer has arrived.
    GroupLateTaken,
    /// The log directory has failed: nothing in it is acknowledged any more.
    DirectoryFailed(DiskError),
    /// The sender is stopping and will send no more requests.
    Drained,
}

/// How many requests this core may still open at each other core, and those
/// that wait for that.
#[derive(Debug)]
pub struct Credit {
    open: Vec<usize>,
    backlog: Vec<VecDeque<Mail>>,
    waiting: usize,
}

impl Credit {
    /// Full credit at each of `cores` cores.
    pub fn new(cores: u16) -> Self {
        let cores = usize::from(cores);
        Self {
            open: vec![0; cores],
            backlog: (0..cores).map(|_| VecDeque::new()).collect(),
            waiting: 0,
        }
    }

    /// The request, if it can go to `to` now; otherwise it waits its turn.
    pub fn request(&mut self, to: CoreId, mail: Mail) -> Option<Mail> {
        let at = usize::from(to.0);
        if self.open[at] < MAIL_OPEN_MAX && self.backlog[at].is_empty() {
            self.open[at] += 1;
            return Some(mail);
        }
        self.backlog[at].push_back(mail);
        self.waiting += 1;
        None
    }

    /// Whether a cancellation of this fetch has to be sent to `to`. One that is not
    /// sent yet is told in place to wait for nothing.
    pub fn cancels(&mut self, to: CoreId, cancelled: Origin) -> bool {
        for mail in &mut self.backlog[usize::from(to.0)] {
            if let Mail::Request { origin, work: Work::Fetch(work) } = mail
                && *origin == cancelled
            {
                work.min_bytes = 0;
                return false;
            }
        }
        true
    }

    /// An answer came from `from`. Returns the request that can go there now.
    pub fn answered(&mut self, from: CoreId) -> Option<Mail> {
        let at = usize::from(from.0);
        self.open[at] = self.open[at].checked_sub(1).expect("an answer follows a request");
        let next = self.backlog[at].pop_front()?;
        self.waiting -= 1;
        self.open[at] += 1;
        Some(next)
    }

    /// Whether requests wait: sockets are not read meanwhile.
    pub fn is_exhausted(&self) -> bool {
        self.waiting > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::work::FetchWork;

    #[test]
    fn requests_beyond_the_credit_wait_for_answers_in_order() {
        let mut credit = Credit::new(2);
        let to = CoreId(1);
        let request = |id| Mail::Request {
            origin: Origin { core: CoreId(0), id },
            work: Work::Fetch(FetchWork::default()),
        };
        for id in 0..MAIL_OPEN_MAX as u64 {
            assert!(credit.request(to, request(id)).is_some());
        }
        assert!(credit.request(to, request(9_000)).is_none());
        assert!(credit.request(to, request(9_001)).is_none());
        assert!(credit.is_exhausted());
        assert!(credit.cancels(to, Origin { core: CoreId(0), id: 1 }));
        assert!(!credit.cancels(to, Origin { core: CoreId(0), id: 9_000 }), "not sent yet");
        for expected in [9_000, 9_001] {
            let Some(Mail::Request { origin, .. }) = credit.answered(to) else {
                panic!("a request waits")
            };
            assert_eq!(origin.id, expected);
        }
        assert!(!credit.is_exhausted() && credit.answered(to).is_none());
    }
}
