//! `kill -9` under load: nothing that was acknowledged or served is lost,
//! doubled, moved or changed.
//!
//! A few rounds run in plain `cargo test`. A hundred:
//! `cargo test --release --test server -- --ignored --nocapture kill_nine_100`
//! (`CORELANE_TEST_ROUNDS` for another number, `CORELANE_TEST_SEED` for other draws).

use std::time::{Duration, Instant};

use corelane::base::rng::Rng;

use crate::harness::wire::Wire;
use crate::harness::{Broker, Start, temp_dir};
use crate::load::{Account, RELAXED, ROLLING, SPREAD, SYNCED};
use crate::number;

/// Rounds on one directory; then it is stopped in order and a new one begun.
const ROUNDS_PER_DIRECTORY: u64 = 10;

#[test]
fn what_was_acknowledged_survives_kill_nine() {
    rounds(4, 1);
}

#[test]
#[ignore = "takes minutes; run it with --ignored"]
fn kill_nine_100() {
    rounds(number("CORELANE_TEST_ROUNDS", 100), number("CORELANE_TEST_SEED", 1));
}

fn rounds(count: u64, seed: u64) {
    let started = Instant::now();
    let mut rng = Rng::stream(seed, "kill nine");
    let (mut acknowledged, mut beyond, mut twice, mut done) = (0, 0, 0, 0);
    let mut journals = 0;
    let mut slowest = Duration::ZERO;
    while done < count {
        let dir = temp_dir();
        let huge = (done / ROUNDS_PER_DIRECTORY).is_multiple_of(2);
        let start = Start::on(dir.path()).set(&format!("corelane.memory.huge.pages={huge}"));
        let mut broker = start.broker();
        let mut account = Account::open(&broker, &[SYNCED, ROLLING, RELAXED, SPREAD]);
        for _ in 0..ROUNDS_PER_DIRECTORY.min(count - done) {
            let mut load = account.load(&broker, &mut rng, true);
            let heard = load.wait(rng.between(50, 3_000) as usize, &mut rng);
            broker.kill();
            account.settle(load);
            journals += u64::from(dir.path().join("journal.0.0").exists());
            account.acknowledged += heard as u64;
            if rng.chance(1, 4) {
                kill_while_recovering(start.broker(), &mut rng);
                twice += 1;
            }
            let restarted = Instant::now();
            broker = start.broker();
            assert!(!broker.was_clean());
            slowest = slowest.max(restarted.elapsed());
            done += 1;
            let when = format!("seed {seed}, round {done}");
            let findings = account.verify(&broker);
            findings.expect_sound(&when);
            assert_eq!(account.refused, [0; 0], "{when}");
            beyond = findings.present;
        }
        broker.stop();
        let broker = start.broker();
        assert!(broker.was_clean());
        account.verify(&broker).expect_sound("after an orderly stop");
        broker.stop();
        acknowledged += account.acknowledged;
    }
    println!(
        "kill -9: {done} rounds, {twice} of them killed again while they recovered, {journals} \
         with journals; \
         {acknowledged} records acknowledged, none lost, doubled, moved or changed; \
         {beyond} records in the last directory; slowest restart {} ms; {:.1} s, seed {seed}",
        slowest.as_millis(),
        started.elapsed().as_secs_f64(),
    );
}

/// Makes a broker open its logs and kills it meanwhile.
fn kill_while_recovering(broker: Broker, rng: &mut Rng) {
    let address = broker.address().to_owned();
    let reader = std::thread::spawn(move || {
        let Ok(mut wire) = Wire::connect(&address) else { return };
        for topic in [ROLLING, SYNCED, RELAXED] {
            for partition in 0..topic.partitions {
                // Loads the log; the broker may be gone already.
                if wire.offsets(topic.name, partition).is_err() {
                    return;
                }
            }
        }
    });
    let moment = Duration::from_micros(rng.below(20_000));
    // The moment is what is being tested; nothing is waited for.
    std::thread::park_timeout(moment);
    broker.kill();
    reader.join().expect("the reader does not panic");
}
