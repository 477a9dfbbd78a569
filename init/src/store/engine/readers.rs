//! Readers beside the background, in a simulated time: what is waited for comes first, and nothing comes twice for it.

use super::simulation::{MIB, Server, Temper, World, server, throttled};
use super::*;

/// Chunks all over an image of `size` bytes, in no order.
fn scattered(size: u64, count: u64) -> Vec<u64> {
    let chunks = size / u64::from(CHUNK_SIZE);
    (1..=count).map(|n| n * 7919 % chunks).collect()
}

/// A reader that asks for one chunk after another, each when the one before is there; the longest and the mean wait.
fn read(world: &mut World, chunks: &[u64]) -> (Millis, Millis) {
    let mut waits = Vec::new();
    for chunk in chunks {
        let begun = world.now();
        world.engine.demand([*chunk], begun);
        world.run_until(begun + 60_000, |engine| engine.transfer().is_none_or(|image| image.has(*chunk)));
        waits.push(world.now() - begun);
    }
    (waits.iter().copied().max().unwrap_or(0), waits.iter().sum::<Millis>() / waits.len() as Millis)
}

/// A world in which the image is being served.
fn served(size: u64, servers: &[Server]) -> World {
    let mut world = World::new(size, servers);
    world.run_until(60_000, |engine| engine.servable().is_some());
    let now = world.now();
    world.engine.stream(now);
    world
}

#[test]
fn a_chunk_that_is_waited_for_takes_not_much_longer_than_alone_on_the_wire() {
    // 10, 100 and 1000 Mbit/s; alone a chunk takes 52, 5 and 0.5 ms, and a step of the simulation 10.
    for (kilobytes, most, mean) in [(1_250, 180, 130), (12_500, 40, 25), (125_000, 30, 20)] {
        let mut world = served(400 * MIB, &[throttled(kilobytes * 1000, kilobytes * 1000)]);
        let (longest, usual) = read(&mut world, &scattered(400 * MIB, 40));
        assert!(longest <= most && usual <= mean, "{kilobytes} KB/s: {longest} ms, {usual} ms usually");
    }
}

#[test]
fn what_is_read_after_a_long_silence_waits_no_longer_than_what_is_read_all_the_time() {
    for (kilobytes, most, mean) in [(1_250, 180, 130), (12_500, 40, 25)] {
        let mut world = served(400 * MIB, &[throttled(kilobytes * 1000, kilobytes * 1000)]);
        world.run_until(world.now() + 10_000, |_| false);
        let (longest, usual) = read(&mut world, &scattered(400 * MIB, 8));
        assert!(longest <= most && usual <= mean, "{kilobytes} KB/s: {longest} ms, {usual} ms usually");
    }
}

#[test]
fn reading_in_order_is_fed_from_ahead() {
    // 4 MiB in order, far from where the background is, by a wire that brings them in 3.4 s when it brings nothing else.
    let mut world = served(400 * MIB, &[throttled(1_250_000, 1_250_000)]);
    let begun = world.now();
    read(&mut world, &(3000..3064).collect::<Vec<_>>());
    let took = world.now() - begun;
    assert!(took < 3400 * 14 / 10, "{took}");
}

#[test]
fn from_far_away_comes_with_a_chunk_what_lies_behind_it() {
    // 100 Mbit/s and 50 ms away: some chunks come in the time of asking for another.
    let places: Vec<u64> = scattered(400 * MIB, 20).iter().flat_map(|chunk| [*chunk, chunk + 1, chunk + 2]).collect();
    let wait = |delay| {
        let mut far = throttled(12_500_000, 12_500_000);
        far.delay = delay;
        let mut world = served(400 * MIB, &[far]);
        read(&mut world, &places).1
    };
    // Of three reads one waits for an answer, and the others find their chunk.
    assert!(wait(50) <= 25, "{}", wait(50));
    assert!(wait(0) <= 20, "{}", wait(0));
}

#[test]
fn a_reader_costs_the_whole_little() {
    let mut world = served(100 * MIB, &[server(10)]);
    read(&mut world, &scattered(100 * MIB, 100));
    let took = world.run(60_000);
    assert!(took < 11 * 1000 * 115 / 100, "{took}");
    assert!(world.waste() <= 50, "{}", world.waste());
}

#[test]
fn a_reader_goes_round_a_source_that_is_slow_or_dead() {
    let mut dead = server(10);
    dead.temper = Temper::Dead;
    let mut world = served(100 * MIB, &[throttled(50_000, 50_000), dead, server(10)]);
    world.run_until(3_000, |_| false);
    let (longest, _) = read(&mut world, &scattered(100 * MIB, 20));
    assert!(longest <= 400, "{longest}");
}

#[test]
fn a_reader_of_a_source_that_ignored_a_range_gets_what_it_waits_for_in_its_turn() {
    let mut dead = server(10);
    dead.temper = Temper::Dead;
    let mut world = served(10 * MIB, &[server(10), dead]);
    // It did so in the answer before last, and its connection has ended since.
    world.engine.sources.get_mut(0).unwrap().whole_only = true;
    let (longest, _) = read(&mut world, &[100, 20, 159]);
    assert!(longest <= 2000, "{longest}");
}

/// What is asked for at once when readers want these chunks: the first chunk of each request, and one past its last.
fn asked_for(world: &mut World, chunks: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    world.engine.demand(chunks, world.now());
    let size = u64::from(CHUNK_SIZE);
    let asked = |action| match action {
        Action::Get(request) => request.asked.range.map(|range| (range.start / size, range.end.div_ceil(size))),
        _ => None,
    };
    std::iter::from_fn(|| world.engine.next_action()).filter_map(asked).collect()
}

#[test]
fn one_read_of_several_chunks_is_one_request_and_the_reads_beside_it_do_not_change_it() {
    let near = || served(400 * MIB, &[throttled(1_250_000, 1_250_000)]);
    assert_eq!(asked_for(&mut near(), 3000..3007), [(3000, 3007)]);
    assert_eq!(asked_for(&mut near(), [3000, 3001, 3002, 5000]), [(3000, 3003), (5000, 5001)]);
    assert_eq!(asked_for(&mut near(), [5000, 3000, 3001, 3002]), [(5000, 5001), (3000, 3003)]);
}

#[test]
fn what_has_come_and_is_being_judged_is_not_asked_for_again() {
    let mut world = served(400 * MIB, &[throttled(1_250_000, 1_250_000)]);
    assert_eq!(asked_for(&mut world, 3000..3007), [(3000, 3007)]);
    let job = world.engine.jobs.live().find(|job| job.claim.start == 3000).unwrap().number;
    (3000..3003).for_each(|chunk| world.engine.take(job, chunk));
    assert_eq!(asked_for(&mut world, 3001..3003), []);
}

#[test]
fn a_source_that_is_gone_does_not_count_as_fast() {
    let mut world = served(400 * MIB, &[server(100), throttled(1_250_000, 1_250_000)]);
    world.run_until(world.now() + 200, |_| false);
    world.servers[0].temper = Temper::Dead;
    world.run_until(world.now() + 1000, |_| false);
    // Where it is tried again, another connection makes up for it.
    assert!(world.engine.jobs.to(1) <= 2, "{}", world.engine.jobs.to(1));
}

#[test]
fn a_source_that_brings_more_by_more_connections_gets_them_while_the_image_is_served() {
    // By two connections it took 5.3 s.
    let mut world = served(400 * MIB, &[throttled(40_000_000, 120_000_000)]);
    let begun = world.now();
    let took = world.run(60_000) - begun;
    assert!(took < 4500, "{took}");
}

#[test]
fn what_lies_around_a_reader_comes_before_the_beginning_of_the_image() {
    let mut world = served(400 * MIB, &[throttled(12_500_000, 12_500_000)]);
    let places = [3000, 5000, 1500];
    read(&mut world, &places);
    world.arrived.clear();
    let around = |chunk: &u64| places.iter().any(|place| (place - 8..place + 24).contains(chunk));
    let left = |world: &World| {
        let image = world.engine.transfer().unwrap();
        (0..image.chunks()).filter(|chunk| around(chunk) && !image.has(*chunk)).count()
    };
    let missing = left(&world);
    assert!(missing > 80, "{missing}");
    world.run_until(world.now() + 10_000, |engine| {
        engine.transfer().is_none_or(|image| (0..image.chunks()).filter(around).all(|chunk| image.has(chunk)))
    });
    // What was on its way comes as well.
    assert!(world.arrived.len() <= missing + 20, "{} for {missing}", world.arrived.len());
}

#[test]
fn while_somebody_reads_further_connections_rest() {
    let mut world = served(400 * MIB, &[throttled(20_000_000, 60_000_000)]);
    world.run_until(world.now() + 3000, |_| false);
    assert_eq!(world.engine.jobs.to(0), 3);
    // What they have been asked for already comes. Two are what a wire so fast always has.
    let soon = world.now() + 2000;
    for chunk in scattered(400 * MIB, 80) {
        read(&mut world, &[chunk]);
        world.run_until(world.now() + 40, |_| false);
        assert!(world.engine.jobs.to(0) <= 2 || world.now() < soon, "{}", world.engine.jobs.to(0));
    }
    assert!(world.now() > soon + 1000);
    world.run_until(world.now() + 2000, |_| false);
    assert_eq!(world.engine.jobs.to(0), 3);
}

/// How long readers wait for the next chunk of what the first source has claimed when that falls silent, at some moments.
fn waits_for_a_source_that_fell_silent(servers: &[Server], silent: &[usize]) -> Vec<Millis> {
    let moments = [100, 300, 600, 1100];
    let wait = |moment| {
        let mut world = served(400 * MIB, servers);
        world.run_until(world.now() + moment, |_| false);
        let job = world.engine.jobs.live().find(|job| silent.contains(&job.source.into()));
        let chunk = job.expect("it is asked for something").claim.start;
        silent.iter().for_each(|source| world.servers[*source].temper = Temper::Silent);
        read(&mut world, &[chunk]).0
    };
    moments.map(wait).into()
}

#[test]
fn a_reader_does_not_wait_for_a_source_that_was_fast_and_fell_silent() {
    for megabytes in [10, 50, 100] {
        let waits = waits_for_a_source_that_fell_silent(&[server(megabytes); 2], &[0]);
        assert!(waits.iter().all(|wait| *wait <= 700), "{megabytes} MB/s: {waits:?} ms");
    }
    // The first other one that is asked is silent as well.
    let waits = waits_for_a_source_that_fell_silent(&[server(50), server(50), server(20)], &[0, 1]);
    assert!(waits.iter().all(|wait| *wait <= 3500), "{waits:?} ms");
}

#[test]
fn what_lies_behind_a_chunk_that_was_rescued_from_a_crawling_source_is_brought_by_others_too() {
    let mut world = served(100 * MIB, &[server(20); 2]);
    world.run_until(world.now() + 1500, |_| false);
    let chunk = world.engine.jobs.live().find(|job| job.source == 0).expect("it is asked for something").claim.start;
    world.servers[0] = throttled(2000, 2000);
    read(&mut world, &[chunk]);
    let took = world.run(300_000);
    assert!(took < 15_000, "{took}");
}
