//! Writers that are killed: this test binary runs itself as the writer.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Names the destination for the child, and whether its disk has nameless files.
const CHILD: &str = "PTERON_ATOMIC_TEST_CHILD";
const ROUNDS: usize = 16;

/// Bytes of generation `n`: all alike, and as many as their value says.
fn generation(n: u8) -> Vec<u8> {
    vec![n; 50_000 + 5_000 * usize::from(n)]
}

/// Writes one generation after another until it is killed.
fn write_for_ever(path: &Path, disk: &Arc<dyn Disk>) -> ! {
    for n in (0..=u8::MAX).cycle() {
        let mut f = AtomicFile::create_on(Arc::clone(disk), path).unwrap();
        for part in generation(n).chunks(10_000) {
            f.write_all(part).unwrap();
        }
        f.commit().unwrap();
    }
    unreachable!("a cycle has no end")
}

fn check(test: &str, disk: Arc<dyn Disk>) {
    if let Some(path) = std::env::var_os(CHILD) {
        write_for_ever(Path::new(&path), &disk);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.bin");
    // Waits between 0 and 25 ms after the first generation, by a fixed sequence (Knuth's multiplier).
    let mut state = 0x5EED_u64;
    for round in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads", "1"]).env(CHILD, &path);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !path.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
            assert!(started.elapsed() < Duration::from_secs(60), "the writer writes nothing");
            std::thread::sleep(Duration::from_micros(200));
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros((state >> 33) % 25_000));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());

        let found = std::fs::read(&path).unwrap();
        assert!(found == generation(found[0]), "round {round}: {} bytes of {}", found.len(), found[0]);
        // Nothing, or the one that was being written.
        assert!(names(dir.path()).len() <= 2, "round {round}: {:?}", names(dir.path()));
        if round % 2 == 0 {
            AtomicFile::create_on(Arc::clone(&disk), &path).unwrap().commit().unwrap();
            assert_eq!(names(dir.path()), ["out.bin"], "round {round}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_writer_with_nameless_files() {
    check("atomic::tests::killed::a_writer_with_nameless_files", Arc::new(System));
}

#[test]
fn a_writer_with_named_files() {
    check("atomic::tests::killed::a_writer_with_named_files", Arc::new(Named));
}

/// In a process of its own, because nothing can be begun in it afterwards.
#[test]
fn an_ending_process_leaves_nothing() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        let folder = path.parent().unwrap();
        let mut files: Vec<AtomicFile> =
            disks().map(|disk| AtomicFile::create_on(disk, path).unwrap()).into_iter().collect();
        let scratch = TemporaryFolder::create_in(folder, "scratch").unwrap();
        std::fs::write(scratch.path().join("f"), b"x").unwrap();
        files.iter_mut().for_each(|f| f.write_all(b"half").unwrap());
        remove_temporaries();
        assert!(names(folder).is_empty(), "{:?}", names(folder));
        for f in files {
            let text = f.commit().unwrap_err().to_string();
            assert!(text.contains("the process is ending"), "{text}");
        }
        assert!(AtomicFile::create_on(Arc::new(Named), path).is_err());
        assert!(TemporaryFolder::create_in(folder, "scratch").is_err());
        assert!(names(folder).is_empty(), "{:?}", names(folder));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "atomic::tests::killed::an_ending_process_leaves_nothing"]);
    let output = command.env(CHILD, dir.path().join("f")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran another test");
}
