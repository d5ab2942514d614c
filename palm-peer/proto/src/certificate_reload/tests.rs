//! The rules one by one, and processes whose certificates are replaced well, badly, in
//! parts and too early.

use super::*;
use fastrand::Rng;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn files_are_read_at_most_once_a_second() {
    let start = Instant::now();
    let mut reload = CertificateReload::new(1, start);
    let due = [0, 999, 1000, 1001, 1999, 2000, 9000]
        .map(|ms| reload.is_due(start + Duration::from_millis(ms)));
    assert_eq!(due, [false, false, true, false, false, true, true]);
}

#[test]
fn unusable_files_are_tried_again_and_logged_once_a_minute() {
    let start = Instant::now();
    let mut reload = CertificateReload::new(1, start);
    let mut warnings = Vec::new();
    for s in 0..130 {
        assert!(reload.should_try(&2), "it may have become valid");
        if reload
            .rejected("not valid yet".into(), start + s * SECOND)
            .is_some()
        {
            warnings.push(s);
        }
    }
    assert_eq!(warnings, [3, 63, 123]);
    reload.accepted(2);
    assert!(!reload.should_try(&2));
}

#[test]
fn files_that_are_unusable_for_a_moment_are_not_logged() {
    let start = Instant::now();
    let mut reload = CertificateReload::new(1, start);
    let rejected = |reload: &mut CertificateReload<u32>, s: u32| {
        reload.rejected("half".into(), start + s * SECOND)
    };
    assert!(rejected(&mut reload, 0).is_none());
    reload.accepted(3);
    assert!(rejected(&mut reload, 4).is_none(), "another replacement");
    assert!(!reload.should_try(&3), "they were put back");
    assert!(rejected(&mut reload, 8).is_none());
    assert!(rejected(&mut reload, 11).is_some());
}

/// A certificate and a key. They fit when their numbers are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    certificate: u32,
    key: u32,
    valid_from: Instant,
}

impl Pair {
    fn can_be_used(self, now: Instant) -> bool {
        self.certificate == self.key && now >= self.valid_from
    }
}

/// Laws: only pairs that can be used are used; one that can be is used for the first connection a
/// second later; who replaces both files within a moment causes no warning; one that stays broken
/// is logged, though not more than once a minute.
#[test]
fn replaced_pairs_are_used_as_soon_as_they_can_be() {
    for seed in 0..3000 {
        let mut random = Rng::with_seed(seed);
        let start = Instant::now();
        let mut now = start;
        let mut disk = Pair {
            certificate: 0,
            key: 0,
            valid_from: start,
        };
        let mut used = disk;
        let mut reload = CertificateReload::new(disk, now);
        // Since when what is on disk could be used, and could not be.
        let (mut good, mut bad) = (Some(start), None::<Instant>);
        // Since when what was read could not be.
        let mut bad_read: Option<Instant> = None;
        let mut warned: Option<Instant> = None;
        for step in 0..200 {
            now += random.u32(0..900) * MS;
            match random.u8(0..20) {
                0 => {
                    disk.certificate = step;
                    disk.valid_from = now + random.u32(0..2) * random.u32(0..20) * SECOND;
                }
                1 | 2 => disk.key = disk.certificate,
                _ => {}
            }
            // What is on disk is good or bad for as long as it is; it may become valid by itself.
            let is_good = disk.can_be_used(now);
            good = if is_good { good.or(Some(now)) } else { None };
            bad = if is_good { None } else { bad.or(Some(now)) };
            if reload.is_due(now) {
                if !reload.should_try(&disk) {
                    bad_read = None;
                } else if is_good {
                    reload.accepted(disk);
                    (used, bad_read) = (disk, None);
                } else {
                    let since = *bad_read.get_or_insert(now);
                    if reload.rejected("broken".into(), now).is_some() {
                        assert!(now >= since + WARN_AFTER, "seed {seed}: warned too early");
                        assert!(
                            warned.is_none_or(|warned| now >= warned + 60 * SECOND),
                            "seed {seed}: too often"
                        );
                        warned = Some(now);
                    }
                }
            }
            assert!(used.can_be_used(now), "seed {seed}");
            assert!(
                used == disk || good.is_none_or(|good| now < good + 2 * SECOND),
                "seed {seed}: not used"
            );
            let is_told = warned.is_some_and(|warned| now < warned + 62 * SECOND);
            assert!(
                is_told || bad.is_none_or(|bad| now < bad + WARN_AFTER + 3 * SECOND),
                "seed {seed}: not logged"
            );
        }
    }
}
