mod faults;
#[cfg(unix)]
mod killed;

use super::*;

/// A disk without nameless files.
#[derive(Debug)]
struct Named;

impl Disk for Named {
    fn open_nameless(&self, _: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn disks() -> [Arc<dyn Disk>; 2] {
    [Arc::new(System), Arc::new(Named)]
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn commit_replaces_and_drop_leaves() {
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let create = || AtomicFile::create_on(Arc::clone(&disk), &path).unwrap();
        let mut f = create();
        f.write_all(b"one").unwrap();
        assert!(!path.exists());
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");

        let mut f = create();
        f.write_all(&vec![7; 3 * BUFFER]).unwrap();
        let temporary = f.temporary.clone().map(|t| t.file_name().unwrap().to_str().unwrap().to_owned());
        let expected: Vec<String> = temporary.into_iter().chain(["out.bin".to_owned()]).collect();
        assert_eq!(names(dir.path()), expected);
        drop(f);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["out.bin"]);

        let mut f = create();
        f.write_all(b"two-").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two-");
        assert_eq!(names(dir.path()), ["out.bin"]);
    }
}

/// A disk that does not take one file's bytes to the end, and counts what was put in place.
#[derive(Debug, Default)]
struct Unsynced(std::sync::atomic::AtomicU32);

impl Disk for Unsynced {
    fn sync(&self, file: &File) -> io::Result<()> {
        match file.metadata()?.len() {
            3 => Err(io::ErrorKind::StorageFull.into()),
            _ => file.sync_all(),
        }
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn files_that_belong_together_change_together() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c"].map(|n| dir.path().join(n));
    let begin = |disk: &Arc<dyn Disk>, texts: [&str; 3]| {
        let one = |(path, text): (&PathBuf, &str)| {
            let mut f = AtomicFile::create_on(Arc::clone(disk), path).unwrap();
            f.write_all(text.as_bytes()).unwrap();
            f
        };
        paths.iter().zip(texts).map(one).collect::<Vec<_>>()
    };
    for disk in disks() {
        AtomicFile::commit_all(begin(&disk, ["one", "two", "three"])).unwrap();
        assert_eq!(paths.each_ref().map(|p| std::fs::read_to_string(p).unwrap()), ["one", "two", "three"]);
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
    }
    // The last one cannot be finished: none of those before it is put in its place.
    let disk = Arc::new(Unsynced::default());
    let shared: Arc<dyn Disk> = disk.clone();
    let e = AtomicFile::commit_all(begin(&shared, ["first", "second", "bad"])).unwrap_err();
    assert_eq!((e.path, e.outcome), (paths[2].clone(), Outcome::Kept));
    assert_eq!(disk.0.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(names(dir.path()), ["a", "b", "c"]);
}

#[cfg(target_os = "linux")]
#[test]
fn an_unfinished_file_has_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let f = AtomicFile::create(dir.path().join("f")).unwrap();
    // Some file systems have no nameless files: then the name is there, and known.
    let held = f.temporary.iter().map(|t| t.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names(dir.path()), held.collect::<Vec<_>>());
}

#[test]
fn positions_are_written_in_any_order() {
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let mut f = AtomicFile::create_on(disk, &path).unwrap();
        f.set_len(6).unwrap();
        f.seek(SeekFrom::Start(4)).unwrap();
        f.write_all(b"ef").unwrap();
        f.seek(SeekFrom::Start(0)).unwrap();
        f.write_all(b"ab").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ab\0\0ef");
    }
}

#[test]
fn what_dead_writers_left_is_removed_and_the_living_are_spared() {
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let dead = dir.path().join(".out.bin.4242-0.tmp");
        let foreign = [".out.bin.x-0.tmp", ".other.4242-0.tmp", "out.bin.4242-0.tmp", ".out.bin.tmp"];
        std::fs::write(&dead, b"half").unwrap();
        for name in foreign {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let mut first = AtomicFile::create_on(Arc::clone(&disk), &path).unwrap();
        assert!(!dead.exists());
        let mut second = AtomicFile::create_on(disk, &path).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        first.commit().unwrap();
        second.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        for name in foreign {
            assert!(dir.path().join(name).exists(), "{name}");
        }
        assert_eq!(names(dir.path()).len(), foreign.len() + 1);
    }
}

#[test]
fn destinations_that_cannot_be_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| AtomicFile::create(path).unwrap_err().to_string();
    let e = refused(dir.path());
    assert!(e.starts_with(&dir.path().display().to_string()) && e.contains("it is a folder"), "{e}");
    assert!(refused(&dir.path().join("new/")).contains("it is a folder"));
    let e = refused(&dir.path().join("absent").join("f"));
    assert!(e.contains("there is no folder") && e.contains("absent"), "{e}");
    assert!(refused(Path::new("")).contains("names no file"));
    #[cfg(unix)]
    assert!(refused(Path::new("/dev/null")).contains("neither a regular file nor free"));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_plain_name_lies_in_the_current_folder() {
    let path = Path::new("pteron-atomic-test-that-is-never-committed");
    let f = AtomicFile::create_on(Arc::new(Named), path).unwrap();
    assert_eq!(f.folder, Path::new("."));
    let temporary = f.temporary.clone().unwrap();
    assert!(temporary.exists());
    drop(f);
    assert!(!temporary.exists());
    drop(AtomicFile::create(path).unwrap());
    assert!(!path.exists());
}

#[test]
fn long_and_odd_names_work() {
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ä".repeat(120), "x".repeat(250), ".hidden".to_owned(), "a b-1.tmp".to_owned()] {
            let path = dir.path().join(&name);
            for text in [name.as_str(), "again"] {
                let mut f = AtomicFile::create_on(Arc::clone(&disk), &path).unwrap();
                f.write_all(text.as_bytes()).unwrap();
                f.commit().unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
            }
        }
        assert_eq!(names(dir.path()).len(), 4);
    }
}

#[test]
fn a_folder_that_goes_away_is_named() {
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gone");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("f");
        let f = AtomicFile::create_on(disk, &path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let e = f.commit().unwrap_err();
        assert_eq!((e.path.as_path(), e.outcome), (path.as_path(), Outcome::NotMade));
        assert!(e.to_string().contains("cannot put the finished file in its place"), "{e}");
    }
}

#[test]
fn a_temporary_folder_goes_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let folder = TemporaryFolder::create_in(dir.path(), "bench").unwrap();
    let other = TemporaryFolder::create_in(dir.path(), "bench").unwrap();
    assert_ne!(folder.path(), other.path());
    std::fs::write(folder.path().join("f"), b"x").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    drop(folder);
    assert_eq!(names(dir.path()).len(), 1);
    drop(other);
    assert!(names(dir.path()).is_empty());
    assert!(TemporaryFolder::create_in(dir.path().join("absent"), "x").is_err());
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_permissions_are_those_of_new_files() {
    use std::os::unix::fs::PermissionsExt;
    for disk in disks() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, plain) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("plain"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let mut f = AtomicFile::create_on(Arc::clone(&disk), &link).unwrap();
        f.write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        AtomicFile::create_on(disk, &dir.path().join("made")).unwrap().commit().unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&real), mode(&plain));
        assert_eq!(mode(&dir.path().join("made")), mode(&plain));
    }
}
