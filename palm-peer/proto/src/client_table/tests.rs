use super::*;
use fastrand::Rng;

type Table = ClientTable<u32, u64>;

fn client(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

/// How many things a table remembers.
fn size(table: &Table) -> usize {
    assert_eq!(table.greetings.len(), table.by_client.len());
    assert_eq!(table.held.len(), table.held_by_client.len());
    table.greetings.len() + table.wants_goodbye.len() + table.awaiting_ack.len() + table.held.len()
}

#[test]
fn a_connection_greeting_as_millions_of_clients_uses_one_entry() {
    let now = Instant::now();
    let mut table = Table::default();
    for number in 0..2_000_000 {
        let _ = table.greeted(Some(client(number)), &((number % 4) as u32), true, now);
    }
    assert_eq!(
        (
            table.greetings.len(),
            table.by_client.len(),
            table.wants_goodbye.len()
        ),
        (4, 4, 4)
    );
    assert_eq!(table.connection(client(1_999_999)), Some(&3));
    assert_eq!(
        table.connection(client(0)),
        None,
        "its connection has another name now"
    );
    (0..4).for_each(|connection| table.disconnected(&connection));
    assert_eq!(size(&table), 0);
}

#[test]
fn a_client_that_closes_a_newer_connection_keeps_its_older_one() {
    let now = Instant::now();
    let mut table = Table::default();
    for connection in 1..=3 {
        let _ = table.greeted(Some(client(1)), &connection, false, now);
    }
    table.disconnected(&3);
    assert_eq!(table.connection(client(1)), Some(&2));
    let _ = table.greeted(Some(client(1)), &1, false, now);
    assert_eq!(
        table.connection(client(1)),
        Some(&1),
        "it greeted last, though not first"
    );
    table.disconnected(&2);
    table.disconnected(&1);
    assert_eq!((table.connection(client(1)), size(&table)), (None, 0));
}

#[test]
fn greeting_cost_does_not_grow_with_waiting_answers() {
    let now = Instant::now();
    let (mut empty, mut full) = (Table::default(), Table::default());
    (0..MAX_HELD as u64).for_each(|number| full.hold(client(number), number, 1, now));
    let greet = |table: &mut Table| {
        let begun = Instant::now();
        for number in 0..50_000 {
            let _ = table.greeted(Some(client(1 << 40 | number)), &1, false, now);
        }
        begun.elapsed()
    };
    // Taken in turns, and the quickest of each, so that a busy machine slows both.
    let times = [(); 5].map(|()| (greet(&mut empty), greet(&mut full)));
    let quickest =
        |of: fn(&(Duration, Duration)) -> Duration| times.iter().map(of).min().expect("five");
    let (few, many) = (quickest(|times| times.0), quickest(|times| times.1));
    // By looking at each answer, it would be hundreds of times as long.
    assert!(
        many < few * 20,
        "{many:?} with {MAX_HELD} answers, {few:?} with none"
    );
    assert_eq!(full.held.len(), MAX_HELD);
}

#[test]
fn waiting_answers_are_bounded_and_the_oldest_dropped() {
    let now = Instant::now();
    let mut table = Table::default();
    (0..2 * MAX_HELD as u64).for_each(|number| table.hold(client(1), number, 1, now));
    assert_eq!((table.held.len(), table.held_bytes), (MAX_HELD, MAX_HELD));
    table.hold(client(2), 7, MAX_HELD_BYTES, now);
    assert_eq!((table.held.len(), table.held_bytes), (1, MAX_HELD_BYTES));
    assert!(table.greeted(Some(client(1)), &1, false, now).is_empty());
    assert_eq!(table.greeted(Some(client(2)), &1, false, now), [7]);
    assert_eq!(table.held_bytes, 0);
}

#[test]
fn an_answer_expires_by_itself() {
    let now = Instant::now();
    let mut table = Table::default();
    assert_eq!(table.next_expiry(), None);
    table.hold(client(1), 1, 5, now);
    table.hold(client(2), 2, 6, now + Duration::from_secs(1));
    assert_eq!(table.next_expiry(), Some(now + HELD_FOR));
    table.expire(now + HELD_FOR);
    assert_eq!((table.held.len(), table.held_bytes), (1, 6));
    assert!(
        table
            .greeted(Some(client(2)), &1, false, now + HELD_FOR * 2)
            .is_empty(),
        "too late"
    );
    assert_eq!((table.next_expiry(), table.held_bytes), (None, 0));
}

#[test]
fn goodbye_is_sent_once_to_each_client_that_asked_for_it() {
    let now = Instant::now();
    let mut table = Table::default();
    for number in 1..=3_u32 {
        let _ = table.greeted(Some(client(number.into())), &number, number < 3, now);
    }
    let mut connections = table.start_goodbye();
    connections.sort_unstable();
    assert_eq!((connections, table.awaiting_ack()), (vec![1, 2], 2));
    assert!(table.start_goodbye().is_empty());
    table.goodbye_acknowledged(&1);
    table.disconnected(&2);
    assert_eq!((table.awaiting_ack(), table.said_goodbye()), (0, true));
}

/// A client that looks for another server closes the connection after the greeting: what is sent
/// over it until then is lost.
#[test]
fn a_client_that_only_greets_gets_nothing_but_a_goodbye() {
    let now = Instant::now();
    let mut table = Table::default();
    table.hold(client(1), 7, 1, now);
    assert!(
        table.greeted(None, &2, true, now).is_empty(),
        "it may not stay"
    );
    assert_eq!(table.connection(client(1)), None);
    assert_eq!(table.greeted(Some(client(1)), &1, true, now), [7]);
    assert!(table.greeted(None, &2, true, now).is_empty());
    assert_eq!(
        table.connection(client(1)),
        Some(&1),
        "not the later one, over which nobody greeted"
    );
    let mut connections = table.start_goodbye();
    connections.sort_unstable();
    assert_eq!(connections, [1, 2], "it may have sent something by then");
    table.disconnected(&1);
    table.disconnected(&2);
    assert_eq!((table.awaiting_ack(), size(&table)), (0, 0));
}

/// What a table must answer, kept in the simplest way: every greeting in its order, every
/// answer in its order.
#[derive(Default)]
struct Model {
    greetings: Vec<(u32, Uuid)>,
    held: Vec<(Uuid, u64, Instant)>,
}

impl Model {
    fn connection(&self, client: Uuid) -> Option<u32> {
        self.greetings
            .iter()
            .rev()
            .find(|(_, other)| *other == client)
            .map(|(connection, _)| *connection)
    }

    fn disconnected(&mut self, connection: u32) {
        self.greetings.retain(|(other, _)| *other != connection);
    }

    fn greeted(&mut self, client: Uuid, connection: u32, now: Instant) -> Vec<u64> {
        self.disconnected(connection);
        self.greetings.push((connection, client));
        self.held.retain(|(_, _, until)| *until > now);
        let waiting = self
            .held
            .iter()
            .filter(|(other, ..)| *other == client)
            .map(|(_, answer, _)| *answer)
            .collect();
        self.held.retain(|(other, ..)| *other != client);
        waiting
    }
}

#[test]
fn client_table_matches_a_naive_model_in_thousands_of_runs() {
    for seed in 0..3000 {
        let (mut random, mut now) = (Rng::with_seed(seed), Instant::now());
        let (mut table, mut model) = (Table::default(), Model::default());
        for step in 0..120 {
            let (client, connection) = (client(random.u64(0..5)), random.u32(0..8));
            match random.u8(0..10) {
                0 => assert!(
                    table
                        .greeted(None, &connection, random.bool(), now)
                        .is_empty(),
                    "it only asked"
                ),
                1..4 => {
                    let waiting = table.greeted(Some(client), &connection, random.bool(), now);
                    assert_eq!(
                        waiting,
                        model.greeted(client, connection, now),
                        "seed {seed}, step {step}"
                    );
                }
                4..7 => {
                    table.disconnected(&connection);
                    model.disconnected(connection);
                }
                7..9 => {
                    table.hold(client, step, 1, now);
                    model.held.push((client, step, now + HELD_FOR));
                }
                _ => now += Duration::from_millis(random.u64(0..6000)),
            }
            table.expire(now);
            model.held.retain(|(_, _, until)| *until > now);
            assert_eq!(
                table.connection(client).copied(),
                model.connection(client),
                "seed {seed}, step {step}"
            );
            assert_eq!(
                table.held_bytes,
                model.held.len(),
                "seed {seed}, step {step}"
            );
            assert_eq!(
                table.greetings.len(),
                model.greetings.len(),
                "seed {seed}, step {step}"
            );
        }
        (0..8).for_each(|connection| table.disconnected(&connection));
        table.expire(now + HELD_FOR);
        assert_eq!(size(&table), 0, "seed {seed}");
    }
}
