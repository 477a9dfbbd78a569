//! An image that is served soon, in a simulated time: its chunk list comes beside it, a block at a time.

use super::simulation::{MIB, Server, Temper, World, server, throttled};
use super::*;
use crate::manifest::LIST_BLOCK;
use crate::messages::{FetchCause, Range};

const SIZE: u64 = 4096 * MIB;
const LAST: u64 = SIZE / CHUNK_SIZE as u64 - 1;
const BLOCKS: u64 = SIZE / CHUNK_SIZE as u64 * 32 / LIST_BLOCK as u64;

fn of(server: Server, temper: Temper) -> Server {
    let mut server = server;
    server.temper = temper;
    server
}

fn block(number: u64) -> (Stage, Option<Range>) {
    let bytes = u64::from(LIST_BLOCK);
    (Stage::List, Some(Range { start: number * bytes, end: (number + 1) * bytes }))
}

fn chunk(number: u64) -> (Stage, Option<Range>) {
    let bytes = u64::from(CHUNK_SIZE);
    (Stage::Image, Some(Range { start: number * bytes, end: (number + 1) * bytes }))
}

/// A world in which the image is being served.
fn served(size: u64, servers: &[Server], boot_order: &[u32]) -> World {
    let mut world = World::streamed(size, servers, boot_order);
    world.run_until(60_000, |engine| engine.servable().is_some());
    assert!(world.engine.servable().is_some());
    let now = world.now();
    world.engine.stream(now);
    world
}

fn read(world: &mut World, chunk: u64) -> Millis {
    let begun = world.now();
    world.engine.demand([chunk], begun);
    world.run_until(begun + 60_000, |engine| engine.transfer().is_none_or(|image| image.has(chunk)));
    world.now() - begun
}

/// All of it, and no piece of list or image twice.
fn assert_whole(world: &World, size: u64) {
    let sorted = |pieces: &[u64]| {
        let mut pieces = pieces.to_vec();
        pieces.sort_unstable();
        pieces
    };
    let chunks = size / u64::from(CHUNK_SIZE);
    assert_eq!(sorted(&world.listed), (0..(chunks * 32).div_ceil(u64::from(LIST_BLOCK))).collect::<Vec<_>>());
    assert_eq!(sorted(&world.arrived), (0..chunks).collect::<Vec<_>>());
}

#[test]
fn the_image_opens_by_one_block_of_its_list_and_one_chunk() {
    for size in [SIZE, MIB] {
        let world = served(size, &[throttled(12_500_000, 12_500_000)], &[]);
        // A list of one block is asked for whole.
        let first = if size == SIZE { block(0) } else { (Stage::List, None) };
        assert_eq!(world.asked, [first, chunk(0)]);
        assert_eq!((world.listed, world.arrived), (vec![0], vec![0]));
    }
}

#[test]
fn a_chunk_whose_hash_is_not_there_costs_one_block_of_the_list_before_anything_else() {
    let mut world = served(SIZE, &[throttled(12_500_000, 12_500_000)], &[]);
    world.asked.clear();
    read(&mut world, LAST);
    assert_eq!(world.asked, [block(BLOCKS - 1), chunk(LAST)]);
    world.asked.clear();
    read(&mut world, LAST - 100);
    assert_eq!(world.asked, [chunk(LAST - 100)], "its hash is there");
}

#[test]
fn the_rest_of_the_list_is_in_no_readers_way() {
    // A block and a chunk, each as long as a chunk may take beside the rest of the image.
    for (kilobytes, most) in [(1_250, 2 * 180), (12_500, 2 * 40), (125_000, 2 * 30)] {
        let mut world = served(SIZE, &[throttled(kilobytes * 1000, kilobytes * 1000)], &[]);
        for n in 1..=40 {
            let waited = read(&mut world, n * 7919 % LAST);
            assert!(waited <= most, "{kilobytes} KB/s: {waited} ms");
            world.run_until(world.now() + n * 5, |_| false);
        }
    }
}

#[test]
fn everything_comes_once_and_as_fast_as_ever() {
    for servers in [vec![server(100)], vec![server(50), server(50)]] {
        let mut world = served(SIZE, &servers, &[]);
        let took = world.run(120_000);
        assert!(took < SIZE / 100_000 * 104 / 100, "{took}");
        assert!(world.waste() <= 20, "{}", world.waste());
        assert_whole(&world, SIZE);
    }
}

#[test]
fn a_boot_order_fetches_the_blocks_of_the_list_that_it_needs_and_then_the_rest() {
    // From the last block of the list to the first one, eight chunks each.
    let order: Vec<u32> = (0..BLOCKS).rev().flat_map(|block| (1..9).map(move |n| (block * 2048 + n) as u32)).collect();
    let mut world = served(SIZE, &[throttled(12_500_000, 12_500_000)], &order);
    world.run_until(60_000, |engine| engine.transfer().is_none_or(|image| !image.order_is_pending()));
    assert!(world.arrived.len() <= order.len() + 8, "{}", world.arrived.len());
    let blocks: Vec<u64> = [0].into_iter().chain((1..BLOCKS).rev()).collect();
    assert_eq!(world.listed, blocks);
}

#[test]
fn a_wrong_block_is_asked_of_the_next_source() {
    for bad in [Temper::Lists, Temper::Corrupt, Temper::Dead, Temper::Silent] {
        let mut world = served(SIZE, &[of(server(50), bad), server(50)], &[]);
        let waited = read(&mut world, LAST);
        assert!(waited <= 1500, "{waited}");
        if bad == Temper::Lists {
            assert_eq!(world.engine.sources.get(0).unwrap().tally.trouble, Some(FetchCause::WrongBytes));
        }
        let took = world.run(300_000);
        assert!(took < SIZE / 50_000 * 110 / 100, "{took}");
        assert_whole(&world, SIZE);
    }
}

#[test]
fn one_source_may_have_the_list_and_another_the_image() {
    for lacking in [[Stage::Image, Stage::List], [Stage::List, Stage::Image]] {
        let servers = lacking.map(|stage| of(server(50), Temper::Lacks(stage)));
        let mut world = served(400 * MIB, &servers, &[]);
        let took = world.run(300_000);
        assert!(took < 400 * MIB / 50_000 * 110 / 100, "{took}");
        assert_whole(&world, 400 * MIB);
    }
}

#[test]
fn a_server_without_ranges_gives_the_whole_list_before_the_image() {
    let mut world = World::streamed(400 * MIB, &[of(server(50), Temper::WholeOnly)], &[]);
    world.run(300_000);
    assert_eq!(world.waste(), 0);
    assert_whole(&world, 400 * MIB);
    let last = world.asked.iter().map(|(stage, _)| *stage).rposition(|stage| stage == Stage::List).unwrap();
    let first = world.asked.iter().map(|(stage, _)| *stage).position(|stage| stage == Stage::Image).unwrap();
    assert!(last < first, "{:?}", world.asked);
}

#[test]
fn what_was_verified_before_the_worker_died_is_not_asked_for_again() {
    let mut world = served(400 * MIB, &[server(10)], &[]);
    for (death, chunk) in [6399, 3000, 77].into_iter().enumerate() {
        read(&mut world, chunk);
        world.run_until(world.now() + 30 + death as u64 * 700, |_| false);
        world.lose_worker();
    }
    world.run(300_000);
    assert_whole(&world, 400 * MIB);
    assert_eq!(world.engine.tally.rejected_chunks, 0);
}
