use super::*;

#[test]
fn copies_from_a_doubted_source_are_limited_only_where_they_hide_something() {
    let held = |create_budget| {
        let (occasion, baseline, restored) = (Occasion::Start, Some(300), Restored::AtOnce);
        Trust::Held(Held { occasion, baseline, create_budget, restored, told: Announced::Held })
    };
    let spares = |trust: Trust| {
        [Detector::Sweep, Detector::Watch].map(|by| trust.deletions(by).create_budget())
    };
    for (create_budget, then, at_last) in
        [(Some(5), [3, 0].map(Some), [0, 0].map(Some)), (None, [None; 2], [None; 2])]
    {
        let mut trust = held(create_budget);
        trust.created(2);
        assert_eq!(spares(trust), then);
        trust.clear_create_budget();
        assert_eq!(spares(trust), at_last);
    }
}

const START: Trust = Trust::Unproven(Occasion::Start);

/// Makes a count of a replica in which the source has everything that is not to be deleted.
fn count(entries: u64, deletions: u64) -> Count {
    Count {
        entries,
        deletions,
        names: NameCount { all: entries, shared: entries - deletions },
        ..Count::default()
    }
}

fn judged(count: &Count) -> Option<Doubt> {
    judge(count, Limit::default(), Occasion::Start)
}

#[test]
fn what_is_held_is_told_again_only_where_copies_wait_too() {
    let strange = |all, shared, new| Count {
        names: NameCount { all, shared },
        new,
        ..count(all, all - shared)
    };
    let mut trust = Trust::Unproven(Occasion::Adopted);
    let told =
        [(23, 0, 1), (24, 1, 0), (24, 1, 0), (24, 1, 500), (24, 1, 0)].map(|(all, shared, new)| {
            let count = strange(all, shared, new);
            let doubt = judge(&count, Limit::default(), Occasion::Adopted).unwrap();
            trust = trust.after_doubt(&count, &doubt, Limit::default());
            trust.told()
        });
    assert_eq!(
        told,
        [Announced::Held, Announced::Held, Announced::Held, Announced::Waiting, Announced::Waiting]
    );
}

/// The table of the guide, cell by cell: entries of the replica, how many of them the source lacks,
/// and the doubt at a start and for an adopted root.
#[test]
fn each_share_against_each_number() {
    let strange = |all, shared| Some(Doubt::Strange(NameCount { all, shared }));
    for (entries, deletions, at_start, adopted) in [
        (0, 0, None, None),
        (1, 0, None, None),
        // One file, with another name each night.
        (1, 1, None, None),
        (2, 2, None, None),
        (3, 2, None, None),
        (5, 3, None, Some(Doubt::TooMany)),
        (6, 3, None, None),
        (3, 3, strange(3, 0), strange(3, 0)),
        (92, 92, strange(92, 0), strange(92, 0)),
        (21, 20, strange(21, 1), strange(21, 1)),
        // A tenth is shared, which is enough at a start.
        (10, 9, None, Some(Doubt::TooMany)),
        (20, 18, None, Some(Doubt::TooMany)),
        (20, 10, None, None),
        (98, 88, None, Some(Doubt::TooMany)),
        (110, 99, None, Some(Doubt::TooMany)),
        (111, 100, strange(111, 11), strange(111, 11)),
        (199, 100, Some(Doubt::TooMany), Some(Doubt::TooMany)),
        (200, 100, None, None),
        (1_000_000, 0, None, None),
        (1_000_000, 900_001, strange(1_000_000, 99_999), strange(1_000_000, 99_999)),
    ] {
        let count = count(entries, deletions);
        let held = |occasion| judge(&count, Limit::default(), occasion);
        assert_eq!(held(Occasion::Start), at_start, "{deletions} of {entries} at the start");
        assert_eq!(held(Occasion::Adopted), adopted, "{deletions} of {entries} of an adopted root");
        for occasion in [Occasion::Start, Occasion::Adopted] {
            assert_eq!(judge(&count, Limit::Percent(100.0), occasion), None);
            assert_eq!(judge(&count, Limit::Number(deletions), occasion), None);
        }
    }
}

#[test]
fn a_limit_of_more_than_ninety_percent_says_that_less_may_be_shared() {
    let held = |percent, deletions| {
        judge(&count(1_000, deletions), Limit::Percent(percent), Occasion::Start)
    };
    assert_eq!(held(99.0, 990), None);
    assert!(matches!(held(99.0, 991), Some(Doubt::Strange(_))));
    assert!(matches!(held(90.0, 901), Some(Doubt::Strange(_))));
    assert!(
        matches!(held(20.0, 901), Some(Doubt::Strange(_))),
        "a lower limit asks for no more in common"
    );
    assert_eq!(held(20.0, 201), Some(Doubt::TooMany));
}

#[test]
fn the_next_run_doubts_a_strange_replica_whatever_was_copied_meanwhile() {
    for (all, shared) in [(3, 0), (9, 0), (92, 0), (92, 3), (5_000, 499)] {
        let count = count(all, all - shared);
        let doubt = judged(&count).expect("a doubt");
        let budget =
            create_budget(&count, &doubt, Limit::default(), Occasion::Start).expect("a budget");
        let names = NameCount { all: all + budget, shared: shared + budget };
        let next = Count { entries: all + budget, names, ..count.clone() };
        assert!(judged(&next).is_some(), "after {budget} copies beside {all}");
        let much = Count { new: budget + 1, ..count };
        assert_eq!(create_budget(&much, &doubt, Limit::default(), Occasion::Start), Some(0));
    }
}

#[test]
fn more_than_half_is_held_from_a_hundred_on() {
    assert_eq!(judged(&count(150, 99)), None);
    assert_eq!(judged(&count(199, 100)), Some(Doubt::TooMany));
    assert_eq!(judged(&count(200, 100)), None);
    assert_eq!(judged(&count(1_000_000, 400_000)), None);
}

#[test]
fn an_empty_source_is_held_from_three_on() {
    let empty = |n| Count { source_is_empty: true, ..count(n, n) };
    assert_eq!(judged(&empty(2)), None);
    assert_eq!(judged(&empty(3)), Some(Doubt::SourceIsEmpty));
}

#[test]
fn an_emptied_directory_is_held() {
    let dir = RelPath::new(b"photos").unwrap();
    let emptied = Count { emptied: vec![dir.clone()], ..count(100_000, 100) };
    assert_eq!(judged(&emptied), Some(Doubt::DirectoryIsEmpty(dir)));
}

#[test]
fn a_large_directory_that_became_something_else_is_held() {
    let dir = RelPath::new(b"photos").unwrap();
    let turned = Count { turned: vec![dir.clone()], ..count(100_000, 100) };
    assert_eq!(judged(&turned), Some(Doubt::NotADirectory(dir)));
    assert_eq!(judge(&turned, Limit::Number(100), Occasion::Start), None);
}

#[test]
fn a_source_that_was_doubted_is_trusted_once_a_tenth_of_what_it_lacked_is_missing() {
    let after = |limit, missing| {
        let held = START.after_doubt(&count(300, 200), &Doubt::TooMany, limit);
        held.after_clean_count(&count(300, missing)).0
    };
    assert_eq!(after(Limit::default(), 20), Trust::Trusted);
    assert!(matches!(after(Limit::default(), 21), Trust::Held(Held { create_budget: None, .. })));
    assert_eq!(after(Limit::Number(100), 100), Trust::Trusted, "a number is taken at its word");
    let unknown = START.after_doubt(&count(300, 3), &Doubt::Unknown, Limit::default());
    assert_eq!(unknown.after_clean_count(&count(300, 99)).0, Trust::Trusted);
    let small = START.after_doubt(&count(5, 5), &judged(&count(5, 5)).unwrap(), Limit::default());
    assert_eq!(small.after_clean_count(&count(5, 2)).0, Trust::Trusted);
    assert!(matches!(
        small.after_clean_count(&count(5, 3)),
        (Trust::Held(_), Some(Doubt::NotWhole(2)))
    ));
}

#[test]
fn a_source_that_is_counted_while_it_is_restored_has_to_be_no_more_whole_for_that() {
    let held = |trust: Trust, missing| {
        let count = count(300, missing);
        trust.after_doubt(&count, &judged(&count).unwrap(), Limit::default())
    };
    let trust = held(held(held(START, 300), 200), 160);
    assert_eq!(trust.after_clean_count(&count(300, 31)).1, Some(Doubt::NotWhole(30)));
    assert_eq!(trust.after_clean_count(&count(300, 30)), (Trust::Trusted, None));
}

#[test]
fn a_doubted_source_has_to_be_whole_unless_the_limit_says_otherwise() {
    let after = |limit, missing| {
        let doubted = Trust::requiring_complete(limit);
        match judge(&count(300, missing), limit, Occasion::Adopted) {
            Some(doubt) => doubted.after_doubt(&count(300, missing), &doubt, limit),
            None => doubted.after_clean_count(&count(300, missing)).0,
        }
    };
    let [few, much] = [1, 299].map(|missing| after(Limit::default(), missing));
    assert!(few.must_be_complete() && much.must_be_complete());
    assert_eq!(after(Limit::default(), 0), Trust::Trusted);
    assert_eq!(after(Limit::Percent(100.0), 299), Trust::Trusted);
    assert_eq!(after(Limit::Number(299), 299), Trust::Trusted);
    assert!(matches!(after(Limit::Number(298), 299), Trust::Held(_)));
    assert!(
        !START.after_doubt(&count(300, 200), &Doubt::TooMany, Limit::default()).must_be_complete()
    );
}

#[test]
fn a_number_is_taken_at_its_word() {
    let empty = Count { source_is_empty: true, ..count(500, 500) };
    assert_eq!(judge(&empty, Limit::Number(500), Occasion::Start), None);
    assert_eq!(judge(&empty, Limit::Number(499), Occasion::Start), Some(Doubt::TooMany));
    assert_eq!(judge(&count(1000, 1), Limit::Number(0), Occasion::Start), Some(Doubt::TooMany));
}

#[test]
fn what_could_not_be_looked_into_is_held_unless_it_is_for_want_of_a_right() {
    let dir = RelPath::new(b"d").unwrap();
    let unlisted = |kind| Count::unlisted(&dir, FsError { kind, ..FsError::for_test() });
    assert_eq!(judged(&unlisted(FsErrorKind::Io)), Some(Doubt::Unknown));
    assert_eq!(
        judge(&unlisted(FsErrorKind::Io), Limit::Number(5), Occasion::Start),
        Some(Doubt::Unknown)
    );
    assert_eq!(judge(&unlisted(FsErrorKind::Io), Limit::Percent(100.0), Occasion::Start), None);
    assert_eq!(judged(&unlisted(FsErrorKind::Denied)), None);
}

#[test]
fn all_of_it_turns_the_guard_off() {
    let empty = Count { source_is_empty: true, ..count(500, 500) };
    assert_eq!(judge(&empty, Limit::Percent(100.0), Occasion::Start), None);
}
