//! The end by a signal: Ctrl-C, `kill`, a terminal that is closed.
//!
//! A signal removes the files that are not finished and ends the process with 128 + its number, whatever the process is
//! doing. While text is generated it stops the generation first, so that the statistics so far are printed; if that takes
//! too long, or with a second signal, the process ends at once.

#[cfg(not(unix))]
use pteron::llm::runner::CancelHandle;

#[cfg(unix)]
pub(super) use unix::{exit_code, install, stops};

/// Until it is dropped, the first signal stops a generation instead of ending the process.
#[derive(Debug)]
pub(super) struct Stops(());

#[cfg(not(unix))]
pub(super) fn install() {}

#[cfg(not(unix))]
pub(super) fn exit_code() -> Option<u8> {
    None
}

#[cfg(not(unix))]
pub(super) fn stops(_: CancelHandle) -> Stops {
    Stops(())
}

#[cfg(unix)]
mod unix {
    use std::io::{self, IsTerminal};
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
    use std::thread;
    use std::time::Duration;

    use pteron::checkpoint::atomic::remove_temporaries;
    use pteron::llm::runner::CancelHandle;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::signal_name;

    use super::Stops;
    use crate::cli::output::say;

    /// How long a generation may take to stop.
    const GRACE: Duration = Duration::from_secs(2);

    /// How long standard error may take for the last line: whoever should read it may have stopped reading.
    const LAST_WORDS: Duration = Duration::from_millis(200);

    /// The first signal that came; 0 is none.
    static RECEIVED: AtomicI32 = AtomicI32::new(0);

    /// What is stopped first.
    static GENERATION: Mutex<Option<CancelHandle>> = Mutex::new(None);

    /// Held from the beginning of an end at once until the process is gone.
    static ENDING: Mutex<()> = Mutex::new(());

    fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen. Signals that are ignored stay ignored: `nohup`, or a shell's job in the background. A file that
    /// grows past the process's limit is an error of that write, not the end by SIGXFSZ.
    pub(in crate::cli) fn install() {
        let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&s| !is_ignored(s)).collect();
        // Where nothing can be registered, signals end the process as they always do.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        let Ok(mut signals) = Signals::new(wanted) else { return };
        let listen = move || {
            for signal in signals.forever() {
                received(signal);
            }
        };
        let _ = thread::Builder::new().name("pteron-signals".into()).spawn(listen);
    }

    fn is_ignored(signal: i32) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action the call only fills in the old one, whose memory is ours and large enough.
        let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeros are a valid `sigaction`, and so is what the call wrote.
        let action = unsafe { action.assume_init() };
        result == 0 && action.sa_sigaction == libc::SIG_IGN
    }

    fn received(signal: i32) {
        let is_first = RECEIVED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let generation = lock(&GENERATION).clone();
        match generation.filter(|_| is_first) {
            Some(cancel) => {
                cancel.cancel();
                let late = move || {
                    thread::sleep(GRACE);
                    end(signal)
                };
                if thread::Builder::new().spawn(late).is_err() {
                    end(signal);
                }
            }
            None => end(signal),
        }
    }

    #[expect(clippy::exit, reason = "what must not be left behind has been removed")]
    fn end(signal: i32) -> ! {
        let _ending = lock(&ENDING);
        remove_temporaries();
        let (told, is_told) = mpsc::channel();
        let last_words = move || {
            // On a terminal a line may have been begun.
            let line = if io::stderr().is_terminal() { "\n" } else { "" };
            let name = signal_name(signal).unwrap_or("a signal");
            say(&format!("{line}error: ended by {name} before it was finished"));
            let _ = told.send(());
        };
        if thread::Builder::new().spawn(last_words).is_ok() {
            let _ = is_told.recv_timeout(LAST_WORDS);
        }
        std::process::exit(i32::from(code(signal)))
    }

    fn code(signal: i32) -> u8 {
        128 | u8::try_from(signal & 127).unwrap_or(0)
    }

    /// The exit status if a signal came. Does not return while the process is being ended.
    pub(in crate::cli) fn exit_code() -> Option<u8> {
        let signal = RECEIVED.load(Ordering::SeqCst);
        if signal == 0 {
            return None;
        }
        drop(lock(&ENDING));
        Some(code(signal))
    }

    /// Lets the first signal set `cancel`.
    pub(in crate::cli) fn stops(cancel: CancelHandle) -> Stops {
        *lock(&GENERATION) = Some(cancel);
        Stops(())
    }

    impl Drop for Stops {
        fn drop(&mut self) {
            *lock(&GENERATION) = None;
        }
    }
}
