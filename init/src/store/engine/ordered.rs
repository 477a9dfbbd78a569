//! The boot order of a manifest, in a simulated time: what is waited for, then what a boot reads, then the rest.

use super::simulation::{MIB, Server, Temper, World, server, throttled};
use super::*;

const SIZE: u64 = 100 * MIB;
const CHUNKS: u64 = SIZE / CHUNK_SIZE as u64;

/// Chunks all over the image, in no order.
fn scattered(count: u32) -> Vec<u32> {
    (1..=count).map(|n| n * 769 % CHUNKS as u32).collect()
}

fn of(server: Server, temper: Temper) -> Server {
    let mut server = server;
    server.temper = temper;
    server
}

/// An image with that order, which is being served; and what of it had been fetched or asked for by then.
fn served(servers: &[Server], order: &[u32]) -> (World, usize) {
    let mut world = World::with_order(SIZE, servers, order);
    world.run_until(60_000, |engine| engine.servable().is_some());
    let now = world.now();
    world.engine.stream(now);
    let coming: u64 = world.engine.jobs.live().map(|job| job.claim.end - job.claim.start).sum();
    let begun = world.arrived.len() + usize::try_from(coming).unwrap();
    (world, begun)
}

/// How many chunks had come when the last of `order` had.
fn last_of(world: &World, order: &[u32]) -> usize {
    let place = |chunk: &u32| world.arrived.iter().position(|arrived| arrived == &u64::from(*chunk)).unwrap();
    order.iter().map(place).max().unwrap() + 1
}

#[test]
fn what_a_boot_reads_comes_before_the_rest_and_in_its_order() {
    let order = scattered(200);
    for kilobytes in [1250, 12_500, 125_000] {
        let (mut world, begun) = served(&[throttled(kilobytes * 1000, kilobytes * 1000)], &order);
        world.run(300_000);
        // Those between two of the order may come with them where the wire is fast.
        let most = order.len() + begun + if kilobytes > 100_000 { 200 } else { 0 };
        assert!(last_of(&world, &order) <= most, "{kilobytes} KB/s: {} of {most}", last_of(&world, &order));
        assert_eq!(world.waste(), 0);
        if kilobytes == 1250 {
            // By and large: what is wanted at about the same time may change places, and two come at once.
            let place = |arrived: &u64| order.iter().position(|chunk| u64::from(*chunk) == *arrived);
            let places: Vec<usize> = world.arrived.iter().skip(begun).filter_map(place).collect();
            assert!(places.iter().enumerate().all(|(at, place)| at.abs_diff(*place) <= 8), "{places:?}");
        }
    }
}

#[test]
fn what_is_waited_for_comes_before_what_a_boot_is_known_to_read() {
    let order = scattered(400);
    let (mut world, _) = served(&[throttled(1_250_000, 1_250_000)], &order);
    for chunk in [1500, 31, 777].into_iter().filter(|chunk| !order.contains(&(*chunk as u32))) {
        let begun = world.now();
        world.engine.demand([chunk], begun);
        world.run_until(begun + 60_000, |engine| engine.transfer().is_none_or(|image| image.has(chunk)));
        assert!(world.now() - begun <= 450, "{}", world.now() - begun);
        world.run_until(world.now() + 300, |_| false);
    }
    assert!(world.engine.transfer().unwrap().order_is_pending());
}

#[test]
fn an_order_of_one_or_of_all_or_of_some_twice_costs_nothing() {
    let all: Vec<u32> = (0..CHUNKS as u32).rev().collect();
    let twice: Vec<u32> = scattered(50).into_iter().chain(scattered(50)).collect();
    let (mut plain, _) = served(&[server(10)], &[]);
    let usual = plain.run(60_000);
    for (order, cost) in [(vec![1599], 102), (vec![0], 102), (twice, 103), (all, 115)] {
        let (mut world, begun) = served(&[server(10)], &order);
        let took = world.run(60_000);
        assert!(took <= usual * cost / 100, "{}: {took}, usually {usual}", order.len());
        assert_eq!(world.waste(), 0);
        if order.len() == 1 {
            assert!(last_of(&world, &order) <= begun + 1, "{}", last_of(&world, &order));
        }
    }
}

#[test]
fn several_sources_share_the_order_and_a_bad_one_does_not_hold_it() {
    let order = scattered(200);
    let bad = [Temper::Corrupt, Temper::Dead].map(|temper| of(server(10), temper));
    for servers in [vec![server(5), server(5), server(5)], vec![bad[0], bad[1], server(10)]] {
        let (mut world, begun) = served(&servers, &order);
        world.run(60_000);
        let last = last_of(&world, &order);
        // The good ones go on with the rest while the last pieces of the order come from another.
        assert!(last <= order.len() + begun + 64, "{last}");
        assert!(world.waste() <= 60, "{}", world.waste());
    }
}

#[test]
fn what_is_there_is_not_asked_for_again_and_what_is_lost_is() {
    let order = scattered(40);
    let (mut world, _) = served(&[server(10)], &order);
    let there = |engine: &Engine| engine.transfer().is_none_or(|image| !image.order_is_pending());
    world.run_until(60_000, there);
    let came = world.arrived.len();
    // The worker dies: what it had brought stays.
    world.engine.handle(Event::FetcherLost, world.now());
    let Phase::Image { image, .. } = &mut world.engine.phase else { panic!() };
    assert!(!image.order_is_pending());
    image.set_order(&order);
    assert!(!image.order_is_pending(), "what is there is passed over by a plan that takes its place");
    image.start_over();
    assert!(image.order_is_pending());
    assert!(came < 40 + 40, "{came}");
    let mut before: Vec<u64> = (0..10).map(|at| u64::from(order[at])).collect();
    before.iter().for_each(|chunk| image.keep(*chunk));
    let next = image.next_in_order(1, 0, &[]).unwrap();
    before.push(next.start);
    assert_eq!(next.start, u64::from(order[10]));
}

#[test]
fn an_image_that_is_loaded_before_it_is_used_comes_by_large_requests_whatever_its_order() {
    let mut plain = World::new(SIZE, &[server(10)]);
    let mut world = World::with_order(SIZE, &[server(10)], &scattered(400));
    assert_eq!(world.run(60_000), plain.run(60_000));
    assert_eq!(world.arrived, plain.arrived);
    assert_eq!(world.engine.tally, plain.engine.tally);
}

#[test]
fn a_source_without_ranges_is_read_once_whatever_the_order() {
    let (mut world, _) = served(&[of(server(20), Temper::WholeOnly)], &scattered(100));
    world.run(60_000);
    // What came before it was known that there are no ranges is all that can come again.
    assert!(world.waste() <= 110, "{}", world.waste());
}
