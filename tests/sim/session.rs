//! A fetch session (KIP-227) as its client keeps it: what the broker was told to
//! read, and what it has told.
//!
//! Checked here: a partition that is left out of an answer is as it was told last.

use std::collections::{BTreeMap, BTreeSet};

use corelane::wire::small::uuid;
use kafka_wire::FetchRequest;
use kafka_wire::fetch_request::ForgottenTopic;
use kafka_wire_core::StrBytes;

use crate::client::Shared;
use crate::model::Tp;

/// Errors that end a session: its id is not known, its epoch is another, topics
/// are named the other way.
pub const ENDS: &[i16] = &[70, 71, 106];

/// How a fetch uses a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// Not at all.
    None,
    /// It asks for one.
    New,
    /// It is part of one: answers leave out what has not changed.
    Incremental,
}

/// A session that was granted.
#[derive(Debug)]
pub struct Session {
    pub id: i32,
    /// Of the next request.
    pub epoch: i32,
    /// What the broker reads, from where.
    pub rows: BTreeMap<Tp, i64>,
    /// High watermark and start of the log as they were told last; not there after
    /// an error.
    told: BTreeMap<Tp, (i64, i64)>,
}

impl Session {
    pub fn new(id: i32, rows: BTreeMap<Tp, i64>) -> Self {
        Self { id, epoch: 1, rows, told: BTreeMap::new() }
    }

    /// Notes what was told of a partition; `None` for an error.
    pub fn tell(&mut self, tp: Tp, told: Option<(i64, i64)>) {
        match told {
            Some(told) => drop(self.told.insert(tp, told)),
            None => drop(self.told.remove(&tp)),
        }
    }

    /// What a partition that was left out is like.
    pub fn told(&self, tp: Tp) -> Option<(i64, i64)> {
        self.told.get(&tp).copied()
    }

    /// Changes what the session wants to `wanted`. Returns what a request has to
    /// name for it, and what it has to forget.
    pub fn change(&mut self, wanted: &BTreeMap<Tp, i64>) -> (Vec<(Tp, i64)>, BTreeSet<Tp>) {
        let changed = wanted.iter().filter(|(tp, at)| self.rows.get(tp) != Some(at));
        let changed = changed.map(|(tp, at)| (*tp, *at)).collect();
        let gone = self.rows.keys().copied().filter(|tp| !wanted.contains_key(tp)).collect();
        for tp in &gone {
            self.told.remove(tp);
        }
        self.rows = wanted.clone();
        (changed, gone)
    }
}

/// Puts what a session forgets into a request.
pub fn forget(request: &mut FetchRequest, shared: &Shared, version: i16, gone: &BTreeSet<Tp>) {
    for (id, partition) in gone {
        let mut row = ForgottenTopic::default();
        if version >= 13 {
            row.topic_id = uuid(*id);
        } else {
            row.topic = StrBytes::from(shared.model.topics[id].name.as_str());
        }
        row.partitions = vec![*partition];
        request.forgotten_topics_data.push(row);
    }
}
