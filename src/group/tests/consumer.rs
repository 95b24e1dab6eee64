//! Groups of the consumer protocol.

use super::*;
use crate::group::records::consumer::Assignment;
use crate::group::request::{ConsumerHeartbeat, Leaving};
use crate::metadata::image::{Partition, Topic};
use crate::model::ids::{LeaderEpoch, TopicId};
use crate::wire::groups::ConsumerGroupHeartbeatResponse;
use crate::wire::groups::consumer_group_describe_response::DescribedGroup;
use crate::wire::small;

/// Ids of topics by their names, which are a letter each.
fn topic_id(name: &str) -> TopicId {
    TopicId([name.as_bytes()[0]; 16])
}

/// A topic with so many partitions.
pub(super) fn topic(name: &str, id: [u8; 16], count: usize) -> Arc<Topic> {
    let partition = Partition {
        core: CoreId(0),
        replicas: vec![NodeId(1)],
        isr: vec![NodeId(1)],
        leader: Some(NodeId(1)),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
    };
    Arc::new(Topic {
        id: TopicId(id),
        name: name.into(),
        partitions: vec![partition; count],
        configs: BTreeMap::new(),
    })
}

/// A member as its client knows it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub id: String,
    pub epoch: i32,
    pub instance: Option<&'static str>,
    /// What it has been told to have.
    assigned: Assignment,
    /// What it has.
    pub owned: Assignment,
    topics: Vec<&'static str>,
    pub regex: Option<&'static str>,
    assignor: Option<&'static str>,
}

pub(super) fn client(id: &str, topics: &[&'static str]) -> Client {
    Client {
        id: id.to_owned(),
        epoch: 0,
        instance: None,
        assigned: Assignment::new(),
        owned: Assignment::new(),
        topics: topics.to_vec(),
        regex: None,
        assignor: None,
    }
}

impl Client {
    /// What it says when it has much to say.
    pub fn full(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            member_id: self.id.as_str().into(),
            needs_id: true,
            epoch: self.epoch,
            instance_id: self.instance.map(Arc::from),
            rack_id: None,
            rebalance_timeout_ms: 60_000,
            topics: Some(self.topics.iter().map(|name| Arc::from(*name)).collect()),
            regex: self.regex.map(Arc::from),
            assignor: self.assignor.map(Arc::from),
            owned: Some(self.owned.clone()),
            client_id: "me".into(),
            client_host: "/127.0.0.1".into(),
        }
    }

    /// What it says when nothing is new.
    pub fn short(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            rebalance_timeout_ms: -1,
            topics: None,
            regex: None,
            assignor: None,
            owned: None,
            ..self.full()
        }
    }

    /// Takes in an answer; what it has is as it was until [`Client::obey`].
    pub fn learn(&mut self, answer: &ConsumerGroupHeartbeatResponse) {
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            let rows = assignment.topic_partitions.iter();
            let rows = rows.map(|row| {
                (small::topic_id(row.topic_id), row.partitions.iter().copied().collect())
            });
            self.assigned = rows.collect();
        }
    }

    /// Gives back and takes on what it was told to.
    pub fn obey(&mut self) {
        self.owned = self.assigned.clone();
    }

    pub fn shows(&self) -> String {
        show(&self.assigned)
    }
}

fn show(assignment: &Assignment) -> String {
    let topics = assignment.iter().map(|(topic, partitions)| {
        let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
        format!("{}{}", topic.0[0] as char, partitions.join(","))
    });
    topics.collect::<Vec<_>>().join(" ")
}

impl World {
    /// These topics exist from now on, with so many partitions.
    fn set_topics(&mut self, topics: &[(&str, usize)]) {
        let mut image = Image::empty("".into(), NodeId(1));
        for (name, count) in topics {
            image.insert_topic(topic(name, topic_id(name).0, *count));
        }
        self.image = Arc::new(image);
        self.coordinator.set_topics(self.image.clone());
    }

    pub(super) fn beat(&mut self, beat: ConsumerHeartbeat) -> ConsumerGroupHeartbeatResponse {
        let id = self.ask("g", Ask::ConsumerHeartbeat(Box::new(beat)));
        self.beaten(id)
    }

    pub(super) fn beaten(&mut self, id: u64) -> ConsumerGroupHeartbeatResponse {
        match self.take(id) {
            Response::Beat(response) => *response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn refusal(&mut self, beat: ConsumerHeartbeat) -> E {
        let code = self.beat(beat).error_code;
        let all = [
            E::UnknownMemberId,
            E::FencedMemberEpoch,
            E::InvalidRequest,
            E::UnreleasedInstanceId,
            E::FencedInstanceId,
            E::UnsupportedAssignor,
            E::GroupMaxSizeReached,
            E::GroupIdNotFound,
            E::InvalidRegularExpression,
        ];
        *all.iter().find(|error| error.code() == code).unwrap_or_else(|| panic!("{code}"))
    }

    /// As [`World::tell`] where the first answer is lost; a client that is fenced
    /// joins anew, without anything.
    fn tell_or_join(&mut self, client: &mut Client) {
        let owned = Some(client.owned.clone());
        if client.epoch > 0
            && self.beat(ConsumerHeartbeat { owned, ..client.short() }).error_code
                == E::FencedMemberEpoch.code()
        {
            client.epoch = 0;
            client.assigned.clear();
            client.owned.clear();
        }
        // Not knowing what was lost it says all there is, and is told all.
        let answer = self.beat(client.full());
        client.learn(&answer);
    }

    /// A heartbeat with what the client has, and what it learns from the answer.
    pub(super) fn tell(&mut self, client: &mut Client) {
        let beat = if client.epoch == 0 {
            client.full()
        } else {
            ConsumerHeartbeat { owned: Some(client.owned.clone()), ..client.short() }
        };
        let answer = self.beat(beat);
        client.learn(&answer);
    }

    /// Members give back and take on until nothing changes any more.
    pub(super) fn settle(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..10 {
            for client in &mut *clients {
                self.tell(client);
                client.obey();
            }
        }
        assert_eq!(self.consumers().group_state.as_str(), "Stable");
    }

    pub(super) fn consumers(&mut self) -> DescribedGroup {
        match self.call("g", Ask::DescribeConsumers) {
            Response::ConsumersDescribed(row) => *row,
            other => panic!("{other:?}"),
        }
    }

    /// State and epochs of the group, then each member's epoch.
    pub(super) fn glance(&mut self) -> String {
        let group = self.consumers();
        let members: Vec<String> = group
            .members
            .iter()
            .map(|member| format!("{}@{}", member.member_id.as_str(), member.member_epoch))
            .collect();
        let (epoch, target) = (group.group_epoch, group.assignment_epoch);
        format!("{} {epoch}/{target} {}", group.group_state.as_str(), members.join(" "))
    }

    fn commit_as(&mut self, client: &Client, epoch: i32, offset: i64) -> E {
        let member_id = client.id.as_str().into();
        self.commit("g", Identity { member_id, instance_id: None, generation: epoch }, offset)
    }
}

pub(super) fn world(topics: &[(&str, usize)]) -> World {
    let mut world = World::new(settings());
    world.set_topics(topics);
    world
}

#[test]
fn a_group_goes_by_settings_of_its_own() {
    let mut world = world(&[("t", 4)]);
    let configs =
        [("consumer.heartbeat.interval.ms", "2000"), ("consumer.session.timeout.ms", "1")];
    let image = Arc::make_mut(&mut world.image);
    let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    image.group_configs.insert("g".to_owned(), configs.into());
    let image = world.image.clone();
    world.coordinator.set_topics(image);
    let mut a = client("a", &["t"]);
    let answer = world.beat(a.full());
    a.learn(&answer);
    assert_eq!((answer.member_epoch, answer.heartbeat_interval_ms), (1, 2_000));
    // The shortest session that the broker allows, 10 s, is over.
    world.wait(9_999);
    assert_eq!(world.beat(a.short()).error_code, 0);
    world.wait(10_001);
    assert_ne!(world.beat(a.short()).error_code, 0);
}

/// Its heartbeat came in time and waits for a batch; meanwhile its time is up.
#[test]
fn a_member_that_was_heard_of_while_a_batch_was_written_stays() {
    let mut world = world(&[("t", 4)]);
    let (mut a, b) = (client("a", &["t"]), client("b", &["t"]));
    world.tell(&mut a);
    world.wait(44_990);
    world.hold = true;
    let joins = world.ask("g", Ask::ConsumerHeartbeat(Box::new(b.full())));
    let beats = world.ask("g", Ask::ConsumerHeartbeat(Box::new(a.short())));
    world.wait(20);
    assert!(!world.is_answered(beats), "it waits");
    world.hold = false;
    world.release(E::None);
    assert_eq!((world.beaten(joins).error_code, world.beaten(beats).error_code), (0, 0));
    assert_eq!(world.beat(a.short()).error_code, 0);
    world.wait(45_001);
    assert_eq!(world.refusal(a.short()), E::UnknownMemberId);
}

#[test]
fn a_second_member_gets_what_the_first_gives_back() {
    let mut world = world(&[("t", 4)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    let answer = world.beat(a.full());
    assert_eq!((answer.member_epoch, answer.heartbeat_interval_ms), (1, 5_000));
    a.learn(&answer);
    a.obey();
    assert_eq!(a.shows(), "t0,1,2,3");
    assert_eq!(world.glance(), "Stable 1/1 a@1");
    // Nothing is new: neither epoch nor assignment.
    let answer = world.beat(a.short());
    assert_eq!((answer.member_epoch, answer.assignment.is_none()), (1, true));

    world.tell(&mut b);
    assert_eq!((b.epoch, b.shows().as_str()), (2, ""));
    assert_eq!(world.glance(), "Reconciling 2/2 a@1 b@2");
    // a stays in its epoch until it has given two partitions back.
    world.tell(&mut a);
    assert_eq!((a.epoch, a.shows().as_str()), (1, "t0,1"));
    let silent = world.beat(a.short());
    assert_eq!((silent.member_epoch, silent.assignment.is_none()), (1, true));
    world.tell(&mut b);
    assert_eq!((b.epoch, b.shows().as_str()), (2, ""), "a has them still");
    a.obey();
    world.tell(&mut a);
    assert_eq!((a.epoch, a.shows().as_str()), (2, "t0,1"));
    world.tell(&mut b);
    assert_eq!((b.epoch, b.shows().as_str()), (2, "t2,3"));
    assert_eq!(world.glance(), "Stable 2/2 a@2 b@2");

    // b leaves; a gets all of it with its next heartbeat.
    let gone = world.beat(ConsumerHeartbeat { epoch: -1, ..b.short() });
    assert_eq!((gone.error_code, gone.member_epoch), (0, -1));
    assert_eq!(world.glance(), "Assigning 3/2 a@2");
    world.tell(&mut a);
    assert_eq!((a.epoch, a.shows().as_str()), (3, "t0,1,2,3"));
    let gone = world.beat(ConsumerHeartbeat { epoch: -1, ..a.short() });
    assert_eq!((gone.error_code, world.glance().as_str()), (0, "Empty 4/3 "));
    assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::None));
    assert_eq!(world.consumers().error_code, E::GroupIdNotFound.code());
}

#[test]
fn what_is_refused() {
    let mut world = world(&[("t", 4)]);
    let new = client("a", &["t"]);
    let table: &[(&str, ConsumerHeartbeat, E)] = &[
        ("no group", ConsumerHeartbeat { epoch: 1, ..new.short() }, E::GroupIdNotFound),
        ("no id", ConsumerHeartbeat { member_id: "".into(), ..new.full() }, E::InvalidRequest),
        ("empty instance", Client { instance: Some(""), ..new.clone() }.full(), E::InvalidRequest),
        (
            "no timeout",
            ConsumerHeartbeat { rebalance_timeout_ms: -1, ..new.full() },
            E::InvalidRequest,
        ),
        ("no topics", ConsumerHeartbeat { topics: None, ..new.full() }, E::InvalidRequest),
        ("nothing owned", ConsumerHeartbeat { owned: None, ..new.full() }, E::InvalidRequest),
        ("away, but not static", ConsumerHeartbeat { epoch: -2, ..new.short() }, E::InvalidRequest),
        ("epoch", ConsumerHeartbeat { epoch: -3, ..new.short() }, E::InvalidRequest),
        (
            "assignor",
            Client { assignor: Some("sticky"), ..new.clone() }.full(),
            E::UnsupportedAssignor,
        ),
    ];
    for (name, beat, error) in table {
        assert_eq!(world.refusal(beat.clone()), *error, "{name}");
    }
    assert_eq!(world.consumers().error_code, E::GroupIdNotFound.code(), "nothing has been made");

    let mut a = client("a", &["t"]);
    world.settle(&mut [&mut a]);
    let stranger = ConsumerHeartbeat { member_id: "x".into(), ..a.short() };
    assert_eq!(world.refusal(stranger.clone()), E::UnknownMemberId);
    assert_eq!(world.refusal(ConsumerHeartbeat { epoch: -1, ..stranger }), E::UnknownMemberId);
    assert_eq!(world.refusal(ConsumerHeartbeat { epoch: 7, ..a.short() }), E::FencedMemberEpoch);
    world.coordinator.settings.consumer.max_size = 1;
    assert_eq!(world.refusal(client("b", &["t"]).full()), E::GroupMaxSizeReached);
    // Old versions get an id.
    world.coordinator.settings.consumer.max_size = 2;
    let b = client("", &["t"]);
    let answer = world.beat(ConsumerHeartbeat { needs_id: false, ..b.full() });
    assert_eq!(answer.member_id.expect("an id").as_str().len(), 36);
}

#[test]
fn an_answer_that_was_lost() {
    let mut world = world(&[("t", 4)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    world.settle(&mut [&mut a]);
    world.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.epoch, b.epoch), (2, 2));
    // a does not hear of epoch 3, and has nothing that it should not have.
    world.beat(ConsumerHeartbeat { epoch: -1, ..b.short() });
    let lost = world.beat(ConsumerHeartbeat { owned: Some(a.owned.clone()), ..a.short() });
    assert_eq!(lost.member_epoch, 3);
    assert_eq!(world.refusal(a.short()), E::FencedMemberEpoch, "it does not say what it has");
    let more = Assignment::from([(topic_id("t"), BTreeSet::from([9]))]);
    let more = ConsumerHeartbeat { owned: Some(more), ..a.short() };
    assert_eq!(world.refusal(more), E::FencedMemberEpoch);
    world.beat(ConsumerHeartbeat { owned: Some(a.owned.clone()), ..a.full() });
    // Who was fenced comes again with epoch 0 and nothing.
    let mut again = Client { epoch: 0, owned: Assignment::new(), ..a.clone() };
    world.settle(&mut [&mut again]);
    assert_eq!((again.epoch, again.shows().as_str()), (3, "t0,1,2,3"));
}

#[test]
fn members_that_are_not_heard_of_and_those_that_keep_what_they_have() {
    let mut world = world(&[("t", 4)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    world.settle(&mut [&mut a, &mut b]);
    let before = a.epoch;
    world.wait(44_000);
    world.tell(&mut a);
    world.wait(2_000);
    world.tell(&mut a);
    assert_eq!((a.epoch, a.shows().as_str()), (before + 1, "t0,1,2,3"), "b is gone");
    assert_eq!(world.refusal(b.short()), E::UnknownMemberId);
    a.obey();
    // b comes back; a sends heartbeats and does not give anything back.
    b = client("b", &["t"]);
    world.tell(&mut b);
    for _ in 0..2 {
        world.tell(&mut a);
        world.tell(&mut b);
        assert_eq!(b.shows(), "");
        world.wait(30_000);
    }
    assert_eq!(world.refusal(a.short()), E::UnknownMemberId, "its time is up");
    world.tell(&mut b);
    assert_eq!(b.shows(), "t0,1,2,3");
}

#[test]
fn topics_that_come_grow_and_go() {
    let mut world = world(&[("t", 2)]);
    let mut a = client("a", &["t", "u"]);
    world.settle(&mut [&mut a]);
    assert_eq!((a.epoch, a.shows().as_str()), (1, "t0,1"));
    for (topics, epoch, shows) in [
        (&[("t", 2), ("x", 3)][..], 1, "t0,1"),
        (&[("t", 2), ("u", 1)], 2, "t0,1 u0"),
        (&[("t", 3), ("u", 1)], 3, "t0,1,2 u0"),
        (&[("u", 1)], 4, "u0"),
    ] {
        world.set_topics(topics);
        for _ in 0..2 {
            world.tell(&mut a);
            a.obey();
        }
        assert_eq!((a.epoch, a.shows().as_str()), (epoch, shows), "{topics:?}");
    }
    // It may subscribe to something else, too.
    world.set_topics(&[("t", 2), ("u", 1)]);
    a.topics = vec!["t"];
    let answer = world.beat(a.full());
    a.learn(&answer);
    assert_eq!((a.epoch, a.shows().as_str()), (4, ""), "u has to be given back first");
    a.obey();
    world.tell(&mut a);
    assert_eq!((a.epoch, a.shows().as_str()), (5, "t0,1"));
}

#[test]
fn regular_expressions() {
    let mut world = world(&[("t", 2), ("u", 1)]);
    let mut a = Client { regex: Some("[t-z]"), ..client("a", &[]) };
    world.settle(&mut [&mut a]);
    assert_eq!(a.shows(), "t0,1 u0");
    world.set_topics(&[("t", 2), ("v", 1), ("b", 1)]);
    // Not more often than once in a while.
    world.tell(&mut a);
    assert_eq!(a.shows(), "t0,1");
    world.wait(1_000);
    world.settle(&mut [&mut a]);
    assert_eq!(a.shows(), "t0,1 v0");
    // A clock that was set back does not put it off.
    world.now.unix.0 -= 900_000;
    world.set_topics(&[("t", 2), ("w", 1)]);
    world.tell(&mut a);
    world.settle(&mut [&mut a]);
    assert_eq!(a.shows(), "t0,1 w0");
    world.set_topics(&[("t", 2), ("v", 1), ("b", 1)]);
    world.wait(1_000);
    world.settle(&mut [&mut a]);
    let group = world.consumers();
    assert_eq!(group.members[0].subscribed_topic_regex.as_ref().map(|r| r.as_str()), Some("[t-z]"));
    let bad = Client { regex: Some("[t-"), ..client("b", &[]) };
    assert_eq!(world.refusal(bad.full()), E::InvalidRegularExpression);
    let bad = Client { regex: Some("((a{100}){100}){100}"), ..client("b", &[]) };
    assert_eq!(world.refusal(bad.full()), E::InvalidRegularExpression);
    assert_eq!(world.consumers().members.len(), 1);
    world.restart();
    world.settle(&mut [&mut a]);
    assert_eq!(a.shows(), "t0,1 v0");
    // None any more.
    a.regex = Some("");
    a.topics = vec!["b"];
    let answer = world.beat(a.full());
    a.learn(&answer);
    a.obey();
    world.settle(&mut [&mut a]);
    assert_eq!(a.shows(), "b0");
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let mut world = world(&[("t", 4)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    (a.instance, b.instance) = (Some("one"), Some("two"));
    world.settle(&mut [&mut a, &mut b]);
    let (epoch, had) = (a.epoch, a.shows());
    let second = Client { instance: Some("one"), ..client("a2", &["t"]) };
    assert_eq!(world.refusal(second.full()), E::UnreleasedInstanceId);
    let away = world.beat(ConsumerHeartbeat { epoch: -2, ..a.short() });
    assert_eq!((away.error_code, away.member_epoch), (0, -2));
    // Nothing is anybody else's meanwhile.
    world.tell(&mut b);
    assert_eq!(b.epoch, epoch);
    let mut a2 = second;
    world.tell(&mut a2);
    assert_eq!((a2.epoch, a2.shows()), (epoch, had));
    assert_eq!(world.refusal(a.short()), E::FencedInstanceId);
    assert_eq!(world.refusal(ConsumerHeartbeat { epoch: -2, ..a.short() }), E::FencedInstanceId);
    // One that stays away loses it after its session timeout.
    a2.obey();
    world.beat(ConsumerHeartbeat { epoch: -2, ..a2.short() });
    world.wait(40_000);
    world.tell(&mut b);
    world.wait(6_000);
    world.tell(&mut b);
    assert_eq!(b.shows(), "t0,1,2,3");
}

#[test]
fn commits_and_reads_of_members() {
    let mut world = world(&[("t", 2)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    world.settle(&mut [&mut a]);
    assert_eq!(a.epoch, 1);
    assert_eq!(world.commit_as(&a, 1, 10), E::None);
    assert_eq!(world.commit_as(&a, 2, 11), E::StaleMemberEpoch);
    assert_eq!(world.commit_as(&client("x", &[]), 1, 11), E::UnknownMemberId);
    assert_eq!(world.commit("g", nobody(), 11), E::UnknownMemberId);
    world.settle(&mut [&mut a, &mut b]);
    assert_eq!(a.shows(), "t0");
    // a has had partition 0 since epoch 1, b never.
    assert_eq!((a.epoch, b.epoch), (2, 2));
    assert_eq!(world.commit_as(&a, 1, 12), E::None);
    assert_eq!(world.commit_as(&a, 0, 13), E::StaleMemberEpoch);
    assert_eq!(world.commit_as(&b, 1, 13), E::StaleMemberEpoch);
    let Ask::Commit(mut old) = commit(nobody(), 14, "") else { unreachable!() };
    (old.knows_epochs, old.member.generation) = (false, 2);
    old.member.member_id = "a".into();
    let refused = world.call("g", Ask::Commit(old));
    assert_eq!(refused, Response::Committed(vec![E::UnsupportedVersion]));
    assert_eq!(world.offset("g"), 12);
    for (member, expected) in [
        (Some(("a", 2)), Ok(())),
        (Some(("a", 1)), Err(E::StaleMemberEpoch)),
        (Some(("x", 2)), Err(E::UnknownMemberId)),
        (None, Ok(())),
    ] {
        let member = member.map(|(id, epoch)| (id.into(), epoch));
        match world.call("g", Ask::Fetch(Fetch { member, topics: None })) {
            Response::Fetched(fetched) => assert_eq!(fetched.map(drop), expected),
            other => panic!("{other:?}"),
        }
    }
    // Offsets of a topic that is read stay; the group cannot be deleted.
    let rows = vec![TopicPartitions { topic: "t".into(), partitions: vec![0] }];
    let refused = world.call("g", Ask::DeleteOffsets(rows));
    assert_eq!(refused, Response::OffsetsDeleted(E::None, vec![E::GroupSubscribedToTopic]));
    assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::NonEmptyGroup));
    world.wait(1_000);
    assert_eq!(world.offset("g"), 12);
    // A group without members keeps its offsets for a while.
    for client in [&a, &b] {
        world.beat(ConsumerHeartbeat { epoch: -1, ..client.short() });
    }
    assert_eq!(world.commit("g", nobody(), 15), E::None);
    world.wait(55_000);
    assert_eq!(world.offset("g"), 15);
    world.wait(20_000);
    assert_eq!(world.consumers().error_code, E::GroupIdNotFound.code());
}

#[test]
fn a_group_comes_back_as_it_was() {
    let mut world = world(&[("t", 4)]);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    b.instance = Some("two");
    world.settle(&mut [&mut a]);
    world.tell(&mut b);
    world.tell(&mut a);
    // In the middle of a hand-over: a has been asked to give back.
    let before = world.consumers();
    world.restart();
    assert_eq!(world.consumers(), before);
    world.tell(&mut b);
    assert_eq!(b.shows(), "");
    a.obey();
    world.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.shows().as_str(), b.shows().as_str()), ("t0,1", "t2,3"));
    world.restart();
    // Nobody is heard of any more.
    world.wait(46_000);
    assert_eq!(world.consumers().group_state.as_str(), "Empty");
    world.restart();
    assert_eq!(world.consumers().group_state.as_str(), "Empty");
    assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::None));
    world.restart();
    assert_eq!(world.consumers().error_code, E::GroupIdNotFound.code());
}

#[test]
fn requests_that_meet_a_batch_on_its_way_share_the_next_one() {
    let mut world = world(&[("t", 8)]);
    world.hold = true;
    let clients: Vec<Client> = (0..4).map(|at| client(&format!("m{at}"), &["t"])).collect();
    let asked: Vec<u64> = clients
        .iter()
        .map(|client| world.ask("g", Ask::ConsumerHeartbeat(Box::new(client.full()))))
        .collect();
    assert_eq!(world.held.len(), 1);
    world.release(E::None);
    assert!(world.is_answered(asked[0]) && !world.is_answered(asked[1]));
    assert_eq!(world.held.len(), 1, "one batch for three members");
    // It is refused: nobody has joined, and everybody may try again.
    world.release(E::NotEnoughReplicas);
    for id in &asked[1..] {
        assert_eq!(world.beaten(*id).error_code, E::CoordinatorNotAvailable.code());
    }
    assert_eq!(world.glance(), "Stable 1/1 m0@1");
    world.hold = false;
    let mut clients = clients;
    clients[0].epoch = 1;
    let mut all: Vec<&mut Client> = clients.iter_mut().collect();
    world.settle(&mut all);
    let shown: Vec<String> = clients.iter().map(Client::shows).collect();
    assert_eq!(shown.len(), 4);
    assert!(clients.iter().all(|client| client.owned[&topic_id("t")].len() == 2), "{shown:?}");
}

#[test]
fn groups_without_members_change_their_protocol() {
    let mut world = world(&[("t", 2)]);
    assert_eq!(world.commit("g", nobody(), 7), E::None);
    let mut a = client("a", &["t"]);
    world.settle(&mut [&mut a]);
    assert_eq!((world.offset("g"), world.state("g").as_str()), (7, "Dead"));
    let Response::Listed(Ok(rows)) = ({
        let asker = Asker { origin: Origin { core: CoreId(0), id: 1_000 }, place: 0 };
        world.coordinator.submit(world.now, asker, Request::List);
        world.run();
        world.take(1_000)
    }) else {
        panic!("a list")
    };
    let row = (rows[0].group_type.as_str(), rows[0].group_state.as_str());
    assert_eq!(row, ("consumer", "Stable"));
    world.beat(ConsumerHeartbeat { epoch: -1, ..a.short() });
    // Now by the classic protocol, and back.
    let member = world.team("g", 1).remove(0);
    assert_eq!(world.consumers().error_code, E::GroupIdNotFound.code());
    world.restart();
    assert_eq!((world.state("g").as_str(), world.offset("g")), ("Stable", 7));
    let leaving = Leaving { member_id: member.member_id, instance_id: None };
    world.call("g", Ask::Leave(vec![leaving]));
    a = client("a", &["t"]);
    world.settle(&mut [&mut a]);
    world.restart();
    assert_eq!((world.glance().as_str(), world.offset("g")), ("Stable 1/1 a@1", 7));
}

#[test]
fn many_members() {
    let mut world = world(&[("t", 500)]);
    let mut clients: Vec<Client> =
        (0..200).map(|at| client(&format!("m{at:04}"), &["t"])).collect();
    for _ in 0..4 {
        for client in &mut clients {
            world.tell(client);
            client.obey();
        }
    }
    let mut owners = BTreeSet::new();
    for client in &clients {
        for partition in client.owned.values().flatten() {
            assert!(owners.insert(*partition), "{partition} has one owner");
        }
    }
    assert_eq!(owners.len(), 500);
    assert_eq!(world.consumers().group_state.as_str(), "Stable");
}

#[test]
fn at_most_one_owner_whatever_happens() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut world = world(&[("t", 7), ("u", 3)]);
        let mut clients: Vec<Client> =
            (0..5).map(|at| client(&format!("m{at}"), &["t", "u"])).collect();
        for step in 0..200 {
            let at = rng.below(5) as usize;
            let mut client = clients[at].clone();
            match rng.below(20) {
                0 => {
                    let left = ConsumerHeartbeat { epoch: -1, ..client.short() };
                    client = Client { epoch: 0, owned: Assignment::new(), ..client };
                    client.assigned.clear();
                    world.beat(left);
                }
                1 => world.restart(),
                2 => world.set_topics(&[("t", rng.between(5, 9) as usize), ("u", 3)]),
                3 if client.epoch > 0 => {
                    client.topics = if rng.chance(1, 2) { vec!["t"] } else { vec!["t", "u"] };
                    let answer = world.beat(client.full());
                    client.learn(&answer);
                }
                // The first answer of two is lost.
                4 => world.tell_or_join(&mut client),
                5..=9 => client.obey(),
                _ => world.tell(&mut client),
            }
            // Whoever gives back before it takes on has never what another has.
            let kept = client.owned.iter().map(|(topic, has)| {
                let may = client.assigned.get(topic).cloned().unwrap_or_default();
                (*topic, has.intersection(&may).copied().collect::<BTreeSet<i32>>())
            });
            if rng.chance(1, 3) {
                client.owned = kept.filter(|(_, has)| !has.is_empty()).collect();
            }
            clients[at] = client;
            let mut owners = BTreeSet::new();
            for client in &clients {
                for (topic, partitions) in &client.owned {
                    for partition in partitions {
                        assert!(
                            owners.insert((*topic, *partition)),
                            "seed {seed}, step {step}: {clients:?}"
                        );
                    }
                }
            }
        }
        let mut all: Vec<&mut Client> =
            clients.iter_mut().filter(|client| client.epoch > 0).collect();
        if !all.is_empty() {
            world.settle(&mut all);
        }
    }
}
