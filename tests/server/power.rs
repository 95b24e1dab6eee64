//! The power is pulled under load: what was acknowledged is on the device.
//!
//! The data lies on an ext4 in a file behind a loop device with direct I/O, so
//! the file holds what reached the device and nothing that only the kernel
//! knows. The broker is killed under load and the file copied while it is still
//! mounted; the copy is what a machine finds after its power came back. It is
//! mounted, its journal replayed, a broker started on it and everything read;
//! then the load goes on there. ext4's periodic commit is put off, so that
//! nothing but the broker's own syncs brings anything to the device.
//!
//! The same without syncs (`CORELANE_TEST_SKIP_SYNC=1`) has to lose records:
//! otherwise this test would prove nothing.
//!
//! Needs root, loop devices and mkfs.ext4:
//! `cargo test --release --test server -- --ignored --nocapture power`
//! (`CORELANE_TEST_ROUNDS` for another number, `CORELANE_TEST_SEED` for other draws).

use std::time::Instant;

use corelane::base::rng::Rng;

use crate::harness::Start;
use crate::image::{Image, can_mount};
use crate::load::{Account, ROLLING, SPREAD, SYNCED};
use crate::number;

/// Pulls in a row, each on what the one before has left.
const PULLS_PER_IMAGE: u64 = 10;

const IMAGE_BYTES: u64 = 1 << 30;

#[test]
#[ignore = "needs root, loop devices and minutes; run it with --ignored"]
fn power_pull_100() {
    if !can_mount() {
        return;
    }
    let (count, seed) = (number("CORELANE_TEST_ROUNDS", 100), number("CORELANE_TEST_SEED", 1));
    let started = Instant::now();
    let mut rng = Rng::stream(seed, "power");
    let (mut acknowledged, mut done) = (0, 0);
    while done < count {
        let mut image = Image::create(IMAGE_BYTES);
        let mut broker = Start::on(&image.data()).broker();
        let mut account = Account::open(&broker, &[SYNCED, ROLLING, SPREAD]);
        for _ in 0..PULLS_PER_IMAGE.min(count - done) {
            let mut load = account.load(&broker, &mut rng, true);
            let heard = load.wait(rng.between(50, 3_000) as usize, &mut rng);
            broker.kill();
            let next = image.copy();
            account.settle(load);
            account.acknowledged += heard as u64;
            image = next;
            broker = Start::on(&image.data()).broker();
            done += 1;
            account.verify(&broker).expect_sound(&format!("seed {seed}, pull {done}"));
        }
        assert_eq!(account.refused, [0; 0], "seed {seed}");
        broker.stop();
        acknowledged += account.acknowledged;
    }
    println!(
        "power: {done} pulls; {acknowledged} records acknowledged, none lost, doubled, moved or \
         changed; {:.1} s, seed {seed}",
        started.elapsed().as_secs_f64(),
    );
}

#[test]
#[ignore = "needs root and loop devices; run it with --ignored"]
fn power_pull_without_sync_loses_records() {
    if !can_mount() {
        return;
    }
    const PULLS: usize = 10;
    let mut rng = Rng::stream(number("CORELANE_TEST_SEED", 1), "power without sync");
    let (mut promised, mut lost, mut pulls_with_loss) = (0, 0, 0);
    for _ in 0..PULLS {
        let image = Image::create(IMAGE_BYTES);
        let broker = Start::on(&image.data()).env("CORELANE_TEST_SKIP_SYNC", "1").broker();
        let mut account = Account::open(&broker, &[SYNCED, ROLLING]);
        let mut load = account.load(&broker, &mut rng, false);
        load.wait(rng.between(50, 3_000) as usize, &mut rng);
        let ended = broker.kill();
        assert!(ended.stderr.contains("NOTHING IS SYNCED"), "{ended:?}");
        let image = image.copy();
        account.settle(load);
        let broker = Start::on(&image.data()).broker();
        promised += account.promised();
        let findings = account.verify(&broker);
        broker.kill();
        lost += findings.lost;
        pulls_with_loss += usize::from(findings.lost > 0);
    }
    println!(
        "power without sync: {pulls_with_loss} of {PULLS} pulls lost records; of {promised} \
         that were acknowledged or served, {lost} are gone"
    );
    assert!(pulls_with_loss > PULLS / 2, "the test would not notice a missing sync");
}
