//! `kill -9` at random moments of an export.

use std::process::Stdio;
use std::time::{Duration, Instant};

use pteron_testkit::{Numbers, large_tests_allowed};

use super::*;

/// What a killed export may leave.
fn check(job: &Job, whole: &[u8], old: bool, case: &str) {
    let found = fs::read(job.out()).ok();
    let is_whole = found.as_deref() == Some(whole);
    let is_before = found.as_deref() == old.then_some(OLD);
    assert!(is_whole || is_before, "{case}: the destination has {:?} bytes", found.map(|f| f.len()));
    // The unfinished file, where the system gives it a name.
    assert!(job.left().iter().filter(|n| *n != "m.pte").count() <= 1, "{case}: {:?}", job.left());
}

/// Kills `count` exports at moments spread over how long one takes.
fn kill_at_random_moments(job: &Job, seed: u64, count: usize) {
    let whole = job.whole();
    let mut times: Vec<Duration> = (0..3)
        .map(|_| {
            let start = Instant::now();
            assert!(job.command().stdout(Stdio::null()).status().unwrap().success());
            start.elapsed()
        })
        .collect();
    times.sort();
    let microseconds = u64::try_from(times[1].as_micros()).unwrap();
    let mut numbers = Numbers::new(seed);
    let mut killed = 0;
    for round in 0..count {
        let old = numbers.below(2) == 1;
        // A little past the usual end too.
        let moment = Duration::from_micros(numbers.below(microseconds * 11 / 10));
        let case = format!("kill {round} after {moment:?} of {:?}, old {old}", times[1]);
        job.begin(old);
        let mut child = job.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        check(job, &whole, old, &case);
        if ended.success() {
            assert!(fs::read(job.out()).unwrap() == whole, "{case}: it said that it succeeded");
        } else {
            killed += 1;
        }
        if round % 5 == 4 || round + 1 == count {
            assert!(job.whole() == whole, "{case}: the export after it");
        }
    }
    assert!(killed > 0, "no kill came in time");
}

#[test]
fn a_few_kills_of_an_export() {
    kill_at_random_moments(&Job::bundled(), 1, 6);
}

#[test]
fn fifty_kills_of_a_small_export() {
    if large_tests_allowed("crash::killed::fifty_kills_of_a_small_export") {
        kill_at_random_moments(&Job::bundled(), 2, 50);
    }
}

#[test]
fn fifty_kills_of_a_larger_export() {
    if large_tests_allowed("crash::killed::fifty_kills_of_a_larger_export") {
        kill_at_random_moments(&Job::large(), 3, 50);
    }
}

/// Not by the clock, but when a part of the file has been written: in the middle of it, and while it is flushed.
#[test]
fn kills_in_the_middle_of_the_writing() {
    let job = Job::large();
    let whole = job.whole();
    let mut landed = 0;
    for (round, percent) in [1, 20, 40, 60, 80, 95, 100].into_iter().enumerate() {
        let old = round % 2 == 0;
        job.begin(old);
        let mut child = job.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let in_time = wait_until_written(&mut child, whole.len() as u64 * percent / 100);
        child.kill().unwrap();
        let is_killed = !child.wait().unwrap().success();
        let case = format!("killed at {percent}%, old {old}");
        check(&job, &whole, old, &case);
        // Half a file is never put in place.
        if in_time && is_killed && percent < 95 {
            landed += 1;
            assert_eq!(fs::read(job.out()).ok().as_deref(), old.then_some(OLD), "{case}");
        }
    }
    assert!(landed > 0, "no kill came while the file was written");
    assert!(job.whole() == whole);
}

/// A quantized export writes five files: each of them is the old one, or the new one and whole, and the program is the last.
#[test]
fn what_stands_beside_a_program_is_whole_as_well() {
    let job = Job::new(support::with_glass(), &["glass-en", "-qmode", "int8", "--no-evaluation"]);
    let command = || {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pteron"));
        c.args(job.args.iter().filter(|a| **a != "--bare")).current_dir(job.folder.path());
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        c
    };
    let names = ["m.card.json", "m.pte", "m.recipe.toml", "m.tokenizer.json", "m.tokenizer_config.json"];
    let start = Instant::now();
    assert!(command().status().unwrap().success());
    let mut usual = u64::try_from(start.elapsed().as_micros()).unwrap();
    assert_eq!(job.left(), names);
    let read = |name: &str| fs::read(job.folder.path().join(name)).unwrap();
    let whole: Vec<Vec<u8>> = names.iter().map(|n| read(n)).collect();
    let mut numbers = Numbers::new(4);
    let mut killed = 0;
    for round in 0..8 {
        for name in names {
            fs::write(job.folder.path().join(name), OLD).unwrap();
        }
        let mut child = command().spawn().unwrap();
        // The end of the work is where files are put in place.
        std::thread::sleep(Duration::from_micros(usual / 2 + numbers.below(usual * 6 / 10)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // The first run, from files that nobody had read, took longer.
            usual = usual * 3 / 4;
        } else {
            killed += 1;
        }
        for (name, whole) in names.iter().zip(&whole) {
            let found = read(name);
            assert!(found == *whole || found == OLD, "kill {round}: {name} has {} bytes", found.len());
        }
        if read("m.pte") != OLD {
            assert!(names.iter().all(|n| read(n) != OLD), "kill {round}: a new program beside an old file");
        }
    }
    assert!(killed > 0, "no kill came in time");
}
