//! One client's socket: frames in, answers out in the order of the requests.
//!
//! A connection receives into a page while a frame is incomplete, and through
//! the core's shared buffers otherwise. Frames are handed out as slices of that
//! page. Each request takes a place in the answer order; answers may be ready
//! in any order and leave in that one. Back-pressure is not receiving: while
//! too many requests are open, too many bytes wait for the socket, or the core
//! is short of memory ([`memory`]).

pub mod memory;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use self::memory::ReceiveMemory;
use crate::base::limits::{RECEIVE_PAGE_MIN, REQUESTS_PER_CONNECTION_MAX, SEND_QUEUE_MAX};
use crate::base::pages::{PageSlice, PageWriter};
use crate::base::rope::Rope;
use crate::base::time::Instant;
use crate::effect::net::{ConnectionId, ReceiveInto};
use crate::wire::WireError;
use crate::wire::frame::{LENGTH_PREFIX, frame_len};

/// A place in a connection's answer order.
pub type Place = u64;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    /// Tells this connection from earlier ones with its number.
    generation: u64,
    /// The client's address.
    peer: IpAddr,
    /// Received bytes that are not handed out yet, from `start` on. Away while
    /// the socket fills it.
    page: Option<PageWriter>,
    start: usize,
    receiving: bool,
    /// What is being received goes into the page.
    into_page: bool,
    /// When a frame was taken, or a page got for one, last.
    progress: Instant,
    /// May use the memory that is kept for one.
    favoured: bool,
    /// There was no memory to receive into.
    starved: bool,
    sending: bool,
    /// The peer has ended its side, or the connection is to end after its answers.
    no_more_requests: bool,
    closing: bool,
    /// Answers by place, `first` being the place of the front one.
    answers: VecDeque<Option<Rope>>,
    first: Place,
    /// The API and the taking up of each request in `answers`.
    taken: VecDeque<(i16, Instant)>,
    /// Bytes of answers not yet handed to the socket.
    waiting_bytes: usize,
    /// Answers that may be sent now.
    out: Rope,
    /// When bytes moved last.
    active: Instant,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(id: ConnectionId, generation: u64, peer: IpAddr, now: Instant) -> Self {
        Self {
            id,
            generation,
            peer,
            page: None,
            start: 0,
            receiving: false,
            into_page: false,
            progress: now,
            favoured: false,
            starved: false,
            sending: false,
            no_more_requests: false,
            closing: false,
            answers: VecDeque::new(),
            first: 0,
            taken: VecDeque::new(),
            waiting_bytes: 0,
            out: Rope::default(),
            active: now,
        }
    }

    /// The client's address.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Bytes have moved.
    pub fn note_activity(&mut self, now: Instant) {
        self.active = now;
    }

    /// A frame was taken.
    pub fn note_progress(&mut self, now: Instant) {
        self.progress = now;
        self.favoured = false;
    }

    /// Since when a part of a frame is held without getting on, if one is.
    pub fn stalled_since(&self) -> Option<Instant> {
        ((self.into_page || self.starved) && !self.closing).then_some(self.progress)
    }

    /// Lets the frame that comes have the memory that is kept for one connection,
    /// until it is whole.
    pub fn favour(&mut self) {
        self.favoured = true;
    }

    /// Whether its frame still has that right.
    pub fn is_favoured(&self) -> bool {
        self.favoured && !self.closing
    }

    /// Whether nothing is owed to the client and no byte has moved for `max`.
    pub fn is_idle_since(&self, now: Instant, max: Duration) -> bool {
        self.is_idle() && now.since(self.active) >= max
    }

    /// The performer's number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Tells connections with the same number apart.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes bytes of the shared buffer. False if there is no memory for them.
    pub fn received_lent(
        &mut self,
        now: Instant,
        bytes: &[u8],
        request_max: usize,
        memory: &mut ReceiveMemory,
    ) -> bool {
        self.receiving = false;
        self.progress = now;
        assert!(self.page.is_none(), "the shared buffer is for connections without a page");
        // Room for the rest of the first frame saves moving what is here.
        let total = match frame_len(bytes, request_max) {
            Ok(Some(len)) => len + LENGTH_PREFIX,
            _ => bytes.len(),
        };
        let wanted = total.min(RECEIVE_PAGE_MIN);
        let Some(mut page) = memory.first(bytes.len(), wanted) else { return false };
        page.put(bytes);
        self.page = Some(page);
        self.start = 0;
        true
    }

    /// Takes the page back with more of it filled.
    pub fn received_page(&mut self, page: PageWriter) {
        self.receiving = false;
        self.into_page = false;
        self.page = Some(page);
    }

    /// The peer sends no more.
    pub fn received_end(&mut self) {
        self.receiving = false;
        self.into_page = false;
        self.starved = false;
        self.no_more_requests = true;
    }

    /// The next whole frame without its length, if it is here and may be taken.
    ///
    /// # Errors
    /// A length that no request has.
    pub fn next_frame(&mut self, request_max: usize) -> Result<Option<PageSlice>, WireError> {
        if !self.takes_requests() {
            return Ok(None);
        }
        let Some(page) = &self.page else { return Ok(None) };
        let bytes = &page.filled()[self.start..];
        let Some(len) = frame_len(bytes, request_max)? else { return Ok(None) };
        if bytes.len() < LENGTH_PREFIX + len {
            return Ok(None);
        }
        let begin = self.start + LENGTH_PREFIX;
        let frame = page.slice(begin..begin + len);
        self.start = begin + len;
        if self.start == page.len() {
            self.page = None;
        }
        Ok(Some(frame))
    }

    /// Whether another request may be taken up now.
    fn takes_requests(&self) -> bool {
        !self.closing
            && self.answers.len() < REQUESTS_PER_CONNECTION_MAX
            && self.waiting_bytes < SEND_QUEUE_MAX
    }

    /// Whether to receive, and where to. Nothing, if something is being received,
    /// the limits are reached, or there is no memory for a frame: then the
    /// connection [is starved](Self::is_starved); try again later.
    pub fn receive(
        &mut self,
        now: Instant,
        request_max: usize,
        memory: &mut ReceiveMemory,
    ) -> Option<ReceiveInto> {
        if self.receiving || self.no_more_requests || !self.takes_requests() {
            self.starved = false;
            return None;
        }
        let Some(page) = self.page.take() else {
            self.receiving = true;
            return Some(ReceiveInto::Shared);
        };
        let have = page.len() - self.start;
        let needed = match frame_len(&page.filled()[self.start..], request_max) {
            Ok(Some(len)) => len + LENGTH_PREFIX,
            // A bad length is for `next_frame` to say.
            _ => have + 1,
        };
        if self.start + needed <= page.capacity() && page.spare_len() > 0 {
            self.starved = false;
            self.receiving = true;
            self.into_page = true;
            return Some(ReceiveInto::Page(page));
        }
        // The page grows with what has come, not with what was announced.
        let len = needed.min((2 * have).max(RECEIVE_PAGE_MIN)).max(have + 1);
        let Some(mut larger) = memory.grow(len, self.favoured) else {
            self.page = Some(page);
            self.starved = true;
            return None;
        };
        self.starved = false;
        self.into_page = true;
        self.progress = now;
        larger.put(&page.filled()[self.start..]);
        self.start = 0;
        self.receiving = true;
        Some(ReceiveInto::Page(larger))
    }

    /// Whether there was no memory to receive into.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Takes the next place in the answer order, for a request of the API
    /// numbered `api` that is taken up now.
    pub fn take_place(&mut self, api: i16, now: Instant) -> Place {
        self.answers.push_back(None);
        self.taken.push_back((api, now));
        self.first + self.answers.len() as u64 - 1
    }

    /// The API of the request at `place`, and when it was taken up.
    pub fn taken(&self, place: Place) -> (i16, Instant) {
        let at = usize::try_from(place - self.first).expect("places are close together");
        self.taken[at]
    }

    /// The answer for `place`; an empty one means that the client expects none.
    /// Returns ropes that are no longer needed to `spare`.
    pub fn answer(&mut self, place: Place, answer: Rope, spare: &mut Vec<Rope>) {
        self.waiting_bytes += answer.len();
        let at = usize::try_from(place - self.first).expect("places are close together");
        assert!(self.answers[at].is_none(), "one answer per request");
        self.answers[at] = Some(answer);
        while let Some(Some(_)) = self.answers.front() {
            let mut answer = self.answers.pop_front().flatten().expect("seen above");
            self.taken.pop_front();
            self.first += 1;
            self.out.append(&mut answer);
            spare.push(answer);
        }
    }

    /// What to send now, if anything. `spare` lends a rope for what comes after.
    pub fn send(&mut self, spare: &mut Vec<Rope>) -> Option<Rope> {
        if self.sending || self.closing || self.out.is_empty() {
            return None;
        }
        self.sending = true;
        let next = spare.pop().unwrap_or_default();
        Some(std::mem::replace(&mut self.out, next))
    }

    /// A send of `len` bytes ended well.
    pub fn sent(&mut self, len: usize) {
        self.sending = false;
        self.waiting_bytes -= len;
    }

    /// Receives nothing more; the connection ends when the requests that are here
    /// are answered.
    pub fn finish(&mut self) {
        self.no_more_requests = true;
    }

    /// Whether nothing is owed to the client and nothing more is taken from it.
    pub fn is_finished(&self) -> bool {
        self.no_more_requests && self.is_idle()
    }

    /// Whether every answer has been handed to the socket.
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && self.out.is_empty() && !self.sending
    }

    /// Marks the connection as being closed; true the first time.
    pub fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }

    /// Whether it is being closed.
    pub fn is_closing(&self) -> bool {
        self.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;
    use crate::base::rng::Rng;

    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const MAX: usize = 100 << 20;
    const NOW: Instant = Instant::from_nanos(0);

    fn frame(len: usize) -> Vec<u8> {
        // A Produce request, as far as its length is judged.
        let mut frame = (len as i32).to_be_bytes().to_vec();
        frame.extend((0..len).map(|at| if at < 2 { 0 } else { at as u8 }));
        frame
    }

    fn rope(pool: &mut PagePool, bytes: &[u8]) -> Rope {
        let mut page = pool.allocate(bytes.len()).expect("within budget");
        page.put(bytes);
        let mut rope = Rope::default();
        rope.push(page.slice(0..bytes.len()));
        rope
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let mut memory = ReceiveMemory::new(64 << 20);
            let lens: Vec<usize> = (0..20)
                .map(|_| {
                    let most = [40, 9_000, 700_000][rng.below(3) as usize];
                    rng.between(10, most) as usize
                })
                .collect();
            let stream: Vec<u8> = lens.iter().flat_map(|len| frame(*len)).collect();
            let mut connection = Connection::new(ConnectionId(1), 1, LOCALHOST, Instant::default());
            let (mut at, mut seen) = (0, 0);
            while seen < lens.len() {
                match connection.receive(NOW, MAX, &mut memory).expect("nothing holds it back") {
                    ReceiveInto::Shared => {
                        let now = (rng.between(1, 16_384) as usize).min(stream.len() - at);
                        assert!(connection.received_lent(
                            NOW,
                            &stream[at..at + now],
                            MAX,
                            &mut memory
                        ));
                        at += now;
                    }
                    ReceiveInto::Page(mut page) => {
                        let most = page.spare_len().min(stream.len() - at);
                        let now = rng.between(1, most as u64) as usize;
                        page.put(&stream[at..at + now]);
                        at += now;
                        connection.received_page(page);
                    }
                }
                while let Some(got) = connection.next_frame(MAX).expect("frames are sane") {
                    assert_eq!(got[..], frame(lens[seen])[4..], "seed {seed} frame {seen}");
                    let place = connection.take_place(0, Instant::default());
                    connection.answer(place, Rope::default(), &mut vec![]);
                    seen += 1;
                }
            }
            drop(connection);
            assert_eq!(memory.in_use(), 0);
        }
    }

    #[test]
    fn an_announced_size_costs_nothing_until_bytes_come() {
        let mut memory = ReceiveMemory::new(64 << 20);
        let mut connection = Connection::new(ConnectionId(1), 1, LOCALHOST, Instant::default());
        connection.receive(NOW, MAX, &mut memory);
        let huge = (MAX as i32).to_be_bytes();
        assert!(connection.received_lent(
            NOW,
            &[&huge[..], &[0, 0, 0, 9]].concat(),
            MAX,
            &mut memory
        ));
        assert!(matches!(connection.next_frame(MAX), Ok(None)));
        assert!(matches!(connection.receive(NOW, MAX, &mut memory), Some(ReceiveInto::Page(_))));
        assert!(memory.in_use() <= 2 * RECEIVE_PAGE_MIN);
    }

    #[test]
    fn answers_leave_in_the_order_of_the_requests() {
        let mut pool = PagePool::new(1 << 20);
        let mut connection = Connection::new(ConnectionId(1), 1, LOCALHOST, Instant::default());
        let mut spare = vec![];
        let places: Vec<Place> =
            (0..3).map(|_| connection.take_place(0, Instant::default())).collect();
        connection.answer(places[2], rope(&mut pool, b"c"), &mut spare);
        assert!(connection.send(&mut spare).is_none());
        connection.answer(places[0], rope(&mut pool, b"a"), &mut spare);
        assert_eq!(connection.send(&mut spare).map(|rope| rope.to_vec()), Some(b"a".to_vec()));
        connection.answer(places[1], Rope::default(), &mut spare);
        assert!(connection.send(&mut spare).is_none(), "one send at a time");
        connection.sent(1);
        assert_eq!(connection.send(&mut spare).map(|rope| rope.to_vec()), Some(b"c".to_vec()));
        connection.finish();
        assert!(!connection.is_finished());
        connection.sent(1);
        assert!(connection.is_finished());
    }

    #[test]
    fn too_many_open_requests_stop_the_reading() {
        let mut memory = ReceiveMemory::new(1 << 20);
        let mut connection = Connection::new(ConnectionId(1), 1, LOCALHOST, Instant::default());
        for _ in 0..REQUESTS_PER_CONNECTION_MAX {
            connection.take_place(0, Instant::default());
        }
        assert!(connection.receive(NOW, MAX, &mut memory).is_none());
        connection.answer(0, Rope::default(), &mut vec![]);
        assert!(connection.receive(NOW, MAX, &mut memory).is_some());
    }
}
