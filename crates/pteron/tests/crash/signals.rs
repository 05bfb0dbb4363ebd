//! Ctrl-C and SIGTERM.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Child;

use super::*;

fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
}

/// The tests themselves may run where signals are ignored, such as in the background of a script.
fn listening(mut command: Command) -> Command {
    let listen = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the default action has no handler that could be unsound.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only `signal` is called, which is safe there.
    unsafe { command.pre_exec(listen) };
    command
}

#[test]
fn an_interrupted_export_leaves_everything_as_it_was() {
    let job = Job::large();
    let total = job.whole().len() as u64;
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        for old in [false, true] {
            // On a busy machine an export may end before the signal is sent.
            let ended = (0..10).find_map(|_| {
                job.begin(old);
                let mut child = listening(job.command()).spawn().unwrap();
                if wait_until_written(&mut child, total / 4) {
                    send(signal, &child);
                }
                Some(support::ran(child.wait_with_output().unwrap())).filter(|r| r.code != 0)
            });
            let ended = ended.expect("an export that is not over before the signal");
            assert_eq!(ended.code, code, "{signal}: {}", ended.err);
            assert_eq!(ended.err.trim(), format!("error: ended by SIG{signal} before it was finished"));
            assert_eq!(fs::read(job.out()).ok().as_deref(), old.then_some(OLD), "{signal}");
            assert_eq!(job.left().len(), usize::from(old), "{signal}: {:?}", job.left());
        }
    }
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let job = Job::large();
    let whole = job.whole();
    job.begin(true);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_pteron")]).args(&job.args);
    let mut child = command.current_dir(job.folder.path()).stdout(Stdio::null()).spawn().unwrap();
    assert!(wait_until_written(&mut child, whole.len() as u64 / 4));
    send("HUP", &child);
    send("INT", &child);
    assert!(child.wait().unwrap().success());
    assert!(fs::read(job.out()).unwrap() == whole);
}

/// The text so far ends with a line break, and the statistics follow.
#[test]
fn an_interrupted_run_says_what_it_did() {
    let folder = support::with_glass();
    let tokens = "6000";
    let lengths = ["--max-seq-length", tokens, "--max-context-length", tokens];
    let export = [&["export", "glass-en", "-kv", "--use-sdpa-with-kv-cache", "-o", "m.pte"], &lengths[..]].concat();
    support::pteron(folder.path(), &export).ok();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pteron"));
        command.args(["run", "m.pte", "-t", "glass-en", "-p", "Alice was", "--ignore-eos", "--stats", "json"]);
        command.args(["--max-new-tokens", tokens, "--temperature", "0"]).current_dir(folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = listening(command).spawn().unwrap();
        // The prompt is printed first, then the text comes as it is made.
        let mut begun = vec![0; "Alice was beginning to".len()];
        child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        send(signal, &child);
        let ended = support::ran(child.wait_with_output().unwrap());
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(!ended.err.contains("error"), "{}", ended.err);
        let (text, statistics) = ended.out.trim_end().rsplit_once('\n').unwrap();
        assert!(!text.is_empty() || begun.starts_with(b"Alice"));
        let statistics = &statistics[statistics.find('{').unwrap()..];
        let statistics: serde_json::Value = serde_json::from_str(statistics).unwrap();
        let made = statistics["generated_tokens"].as_u64().unwrap();
        assert!(made < 5000, "{made} tokens: the run was not stopped");
    }
}
