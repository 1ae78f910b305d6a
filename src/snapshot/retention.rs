//! Which backups go. A pure question: times in, answers out.

use std::collections::BTreeSet;

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Hours of which the last backup each is kept.
const HOURS_KEPT: usize = 24;

/// Backups that somebody asked for and that are kept besides: more than a person makes, and not all that a program may.
const BY_HAND_KEPT: usize = 50;

/// A backup that the store made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) created_ms: i64,
    /// Whether it was verified and is what it was then.
    pub(super) is_good: bool,
    /// Whether somebody asked for it, and not the schedule.
    pub(super) is_by_hand: bool,
}

/// The places in the list of those that are not kept.
///
/// Kept are, of the good ones: the newest; the last of each hour, of the 24 latest hours that have one; the last of each
/// day, of as many latest days that have one; of those days the last 50 that somebody asked for, since a person who makes
/// one before a risky step wants that one back and not the one after it. Hours and days are those of the clock, not ages:
/// what was kept yesterday as the last of its day is so for as long as days are kept. One that is not good pushes nothing
/// out, and goes when enough days with good ones came after it.
pub(super) fn expired(made: &[Made], days: u32, zone_offset_ms: i64) -> Vec<usize> {
    let mut newest_first: Vec<usize> = (0..made.len()).collect();
    newest_first.sort_by_key(|index| std::cmp::Reverse((made[*index].created_ms, *index)));
    let mut kept = BTreeSet::new();
    let mut first_day = None;
    for (len_ms, count) in [(HOUR_MS, HOURS_KEPT), (DAY_MS, (days as usize).max(1))] {
        let mut seen = BTreeSet::new();
        for index in newest_first.iter().copied().filter(|index| made[*index].is_good) {
            let bucket = made[index].created_ms.saturating_add(zone_offset_ms).div_euclid(len_ms);
            if seen.len() < count && seen.insert(bucket) {
                kept.insert(index);
            }
        }
        if len_ms == DAY_MS && seen.len() >= count {
            first_day = seen.first().copied();
        }
    }
    let is_recent = |made: &Made| {
        let day = made.created_ms.saturating_add(zone_offset_ms).div_euclid(DAY_MS);
        first_day.is_none_or(|first| day >= first)
    };
    let is_asked_for = |made: &Made| made.is_good && made.is_by_hand && is_recent(made);
    let asked_for = newest_first.iter().copied().filter(|index| is_asked_for(&made[*index]));
    kept.extend(asked_for.take(BY_HAND_KEPT));
    (0..made.len())
        .filter(|index| !kept.contains(index) && (made[*index].is_good || !is_recent(&made[*index])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(created_ms: i64) -> Made {
        Made { created_ms, is_good: true, is_by_hand: false }
    }

    /// What is left when every backup is followed by a clearing.
    fn run(times: impl IntoIterator<Item = Made>, days: u32) -> Vec<Made> {
        let mut left = Vec::new();
        for made in times {
            left.push(made);
            let gone = expired(&left, days, 0);
            left =
                left.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, made)| *made).collect();
        }
        left
    }

    #[test]
    fn hourly_backups_leave_one_for_each_day_and_each_of_the_last_hours() {
        let left = run((0..24 * 30).map(|hour| good(hour * HOUR_MS + 60_000)), 7);
        let days: BTreeSet<i64> = left.iter().map(|made| made.created_ms / DAY_MS).collect();
        assert_eq!(days.into_iter().collect::<Vec<_>>(), (23..30).collect::<Vec<_>>());
        let last_day = left.iter().filter(|made| made.created_ms >= 29 * DAY_MS).count();
        assert_eq!(last_day, 24);
        assert_eq!(left.len(), 24 + 6);
    }

    #[test]
    fn many_in_one_hour_do_not_push_out_older_days() {
        let days = (0..7).map(|day| good(day * DAY_MS));
        let burst = (0..500).map(|second| good(7 * DAY_MS + second * 1000));
        let left = run(days.chain(burst), 7);
        assert!((1..7).all(|day| left.iter().any(|made| made.created_ms == day * DAY_MS)), "{left:?}");
        assert_eq!(left.iter().filter(|made| made.created_ms >= 7 * DAY_MS).count(), 1);
    }

    #[test]
    fn bad_ones_never_push_out_a_good_one() {
        let bad = (1..1000).map(|hour| Made { is_good: false, ..good(hour * HOUR_MS) });
        let left = run([good(0)].into_iter().chain(bad), 7);
        assert_eq!(left[0], good(0));
        assert_eq!(left.len(), 1000, "nothing good came after them");
        let left = run(left.into_iter().chain((50..60).map(|day| good(day * DAY_MS))), 7);
        assert!(left.iter().all(|made| made.is_good), "{left:?}");
    }

    #[test]
    fn what_somebody_asked_for_stays_for_as_long_as_days_are_kept() {
        let by_hand = Made { is_by_hand: true, ..good(5 * HOUR_MS + 60_000) };
        let hours = |hours: std::ops::Range<i64>| hours.map(|hour| good(hour * HOUR_MS + 120_000));
        let left = run([by_hand].into_iter().chain(hours(5..7 * 24)), 7);
        assert!(left.contains(&by_hand), "another one came in its hour, and others on its day: {left:?}");
        let left = run(left.into_iter().chain(hours(7 * 24..8 * 24)), 7);
        assert!(!left.contains(&by_hand), "seven later days have one: {left:?}");
        let by_program = (0..1000).map(|second| Made { is_by_hand: true, ..good(second * 1000) });
        assert_eq!(run(by_program, 7).len(), BY_HAND_KEPT, "a program asks as often as it likes");
    }

    #[test]
    fn a_pause_of_years_takes_nothing_away() {
        let left = run((0..7).map(|day| good(day * DAY_MS)).chain([good(5000 * DAY_MS)]), 7);
        assert_eq!(left.len(), 8, "the last hours keep them: {left:?}");
        assert_eq!(expired(&[good(5), good(5)], 1, 0), [0], "one of the two, and the later one stays");
    }

    #[test]
    fn times_at_the_ends_of_the_scale_are_no_trouble() {
        assert!(expired(&[good(i64::MIN), good(i64::MAX)], 1, HOUR_MS).is_empty());
        assert!(expired(&[], 7, 0).is_empty());
    }
}
