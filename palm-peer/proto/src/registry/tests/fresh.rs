//! Which probes use a new connection.

use super::*;

#[test]
fn probes_use_a_new_connection_before_a_second_miss() {
    let mut desk = Desk::new();
    for id in 1..=6 {
        desk.configured(id);
    }
    let asked = |actions: &[Action]| -> Vec<(Uuid, Token, bool)> {
        let probe = |a: &Action| match a {
            Action::Probe {
                uuid, token, fresh, ..
            } => Some((*uuid, *token, *fresh)),
            _ => None,
        };
        actions.iter().filter_map(probe).collect()
    };
    let mut fresh: Vec<Uuid> = Vec::new();
    for _ in 0..6 {
        let wait = desk.registry.next_round - desk.now;
        let round = asked(&desk.pass(wait));
        assert_eq!(round.len(), 6);
        fresh.extend(
            round
                .iter()
                .filter(|(_, _, fresh)| *fresh)
                .map(|(uuid, ..)| *uuid),
        );
        for (uuid, token, _) in round {
            desk.event(Event::ProbeOk {
                uuid,
                token,
                digest: String::new(),
            });
        }
    }
    fresh.sort_unstable();
    assert_eq!(
        fresh,
        (1..=6).map(uuid).collect::<Vec<_>>(),
        "each once in six rounds"
    );
    let wait = desk.registry.next_round - desk.now;
    let [first, .., _last] = &asked(&desk.pass(wait))[..] else {
        panic!("a round")
    };
    let (silent, token, _) = *first;
    desk.event(Event::ProbeFailed {
        uuid: silent,
        token,
        reason: "no answer".into(),
    });
    let series = asked(&desk.pass(RETRY * 2));
    let series: Vec<bool> = series
        .iter()
        .filter(|(uuid, ..)| *uuid == silent)
        .map(|(.., fresh)| *fresh)
        .collect();
    assert_eq!(series, [true, true]);
}
