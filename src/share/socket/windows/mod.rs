//! Windows: a named pipe, for the same user only.
//!
//! Pipes have no folder that would keep others out, and whoever looks sees their names. So the pipe has a random name and
//! an access list that lets its owner in alone; its name and a secret stand in the file `owner.pipe` of the store's
//! folder; and whoever connects and whoever listens prove to each other that they know the secret before anything else
//! is said. When the owner has ended, another user who takes the name that is free again can pose neither as the owner
//! nor as a client. Spec: `format-spec/protocol.md`.

mod proof;
mod stream;

use std::fs::OpenOptions;
use std::future::Future;
use std::io::{self, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::OwnedHandle;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

use interprocess::os::windows::named_pipe::PipeListenerOptions;
use interprocess::os::windows::named_pipe::pipe_mode::Bytes;
use interprocess::os::windows::named_pipe::tokio::{DuplexPipeStream, PipeListener};
use interprocess::os::windows::security_descriptor::SecurityDescriptor;

use self::proof::Note;
pub(crate) use self::stream::Stream;
use self::stream::{enter, wait_for};
use super::PeerIdentity;

/// Name of the file in the store's folder that names the pipe.
pub(crate) const SOCKET_NAME: &str = "owner.pipe";
/// Full access for the owner of the pipe (S-1-3-4), none for anybody else, nothing inherited.
const ACCESS_LIST: &widestring::U16CStr = widestring::u16cstr!("D:P(A;;GA;;;S-1-3-4)");
/// How many bytes may be on their way.
const BUFFER_LEN: u32 = 64 << 10;

// Numbers of the Windows SDK (winbase.h, winerror.h).
const FILE_FLAG_OVERLAPPED: u32 = 0x4000_0000;
const SECURITY_IDENTIFICATION: u32 = 0x1_0000;
const ERROR_PIPE_BUSY: i32 = 231;
/// How long to wait for the next instance of a pipe while somebody else connects.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// How often the note is tried to be written.
const NOTE_TRIES: u32 = 500;

/// Where connections come in.
pub(crate) struct Listener {
    pipe: PipeListener<Bytes, Bytes>,
    note: Note,
    /// Who came and was not taken yet.
    came: Mutex<Option<DuplexPipeStream<Bytes>>>,
}

/// Dropping it wakes who waits for a connection.
pub(crate) struct Waker(Arc<Bell>);
/// The end of a waker that wakes.
pub(crate) struct Wake(Arc<Bell>);

#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    listens: Mutex<Option<TaskWaker>>,
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.has_rung.store(true, Ordering::Release);
        if let Some(waker) = self.0.listens.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// Listens for who reads this folder. The note takes the place of one that a former owner left there: whoever calls this
/// holds the lock.
pub(crate) fn listen(folder: &Path) -> io::Result<Listener> {
    let note = Note::new()?;
    let _context = enter()?;
    // Without the right to make another instance of the pipe nobody else can listen under its name.
    let pipe = PipeListenerOptions::new()
        .path(Path::new(&note.pipe_path()))
        .security_descriptor(Some(SecurityDescriptor::deserialize(ACCESS_LIST)?))
        .input_buffer_size_hint(BUFFER_LEN)
        .output_buffer_size_hint(BUFFER_LEN)
        .create_tokio_duplex::<Bytes>()?;
    // Whoever reads it finds a pipe.
    write_note(&folder.join(SOCKET_NAME), &note)?;
    Ok(Listener { pipe, note, came: Mutex::default() })
}

/// Writes the note over a former one.
fn write_note(path: &Path, note: &Note) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(crate::fs::system::NO_LINK_NO_WAIT);
    let mut tries = 0;
    let mut file = loop {
        match options.open(path) {
            // A former one that was removed keeps its name for as long as a client is just reading it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && tries < NOTE_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            opened => break opened?,
        }
    };
    file.write_all(note.to_string().as_bytes())
}

/// What wakes [`await_client`].
pub(crate) fn waker() -> io::Result<(Waker, Wake)> {
    let bell = Arc::<Bell>::default();
    Ok((Waker(Arc::clone(&bell)), Wake(bell)))
}

/// Waits until somebody wants to connect, the waker is dropped or the time is over. Says whether somebody came.
pub(crate) fn await_client(listener: &Listener, wake: &Wake, timeout: Option<Duration>) -> io::Result<bool> {
    let came = wait_for(timeout, async {
        let mut accepting = pin!(listener.pipe.accept());
        std::future::poll_fn(|context| {
            *wake.0.listens.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            if wake.0.has_rung.load(Ordering::Acquire) {
                return Poll::Ready(Ok(None));
            }
            accepting.as_mut().poll(context).map(|accepted| accepted.map(Some))
        })
        .await
    });
    match came {
        Ok(Some(pipe)) => {
            *listener.came.lock().unwrap_or_else(PoisonError::into_inner) = Some(pipe);
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error),
    }
}

/// The connection of whoever came.
pub(crate) fn accept(listener: &Listener) -> io::Result<Stream> {
    let came = listener.came.lock().unwrap_or_else(PoisonError::into_inner).take();
    came.map(|pipe| Stream::of_owner(pipe, listener.note.clone())).ok_or(io::ErrorKind::WouldBlock.into())
}

/// Makes reading and writing wait: they do.
pub(crate) fn make_waiting(_: &Stream) -> io::Result<()> {
    Ok(())
}

/// Sends these few bytes at once. They are so few that they go whole, or not at all where the other end takes nothing just
/// now.
pub(crate) fn send_now(stream: &Stream, bytes: &[u8]) -> io::Result<()> {
    stream.send_now(bytes)
}

/// Connects to the owner whose note is in this folder. An owner that was stopped does not keep anybody longer than this.
pub(crate) fn reach(folder: &Path, wait: Duration) -> io::Result<Stream> {
    let note = Note::read(&folder.join(SOCKET_NAME))?;
    let mut options = OpenOptions::new();
    // Whoever listens may learn who this is, and not act for it.
    options.security_qos_flags(SECURITY_IDENTIFICATION).custom_flags(FILE_FLAG_OVERLAPPED);
    options.read(true).write(true);
    let started = Instant::now();
    let opened = loop {
        match options.open(note.pipe_path()) {
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => {
                if started.elapsed() >= wait {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(BUSY_PAUSE);
            }
            opened => break opened?,
        }
    };
    let context = enter()?;
    let pipe = DuplexPipeStream::<Bytes>::try_from(OwnedHandle::from(opened))
        .map_err(|error| error.cause.unwrap_or(io::ErrorKind::Other.into()))?;
    drop(context);
    Stream::of_client(pipe, &note)
}

/// Who is at the other end. Its user is this one: it has proven that it can read the store's folder.
pub(crate) fn peer_of(stream: &Stream) -> io::Result<Option<PeerIdentity>> {
    Ok(Some(PeerIdentity { uid: own_uid(), pid: stream.peer_pid() }))
}

/// The user that this process acts for: there is no number for it.
pub(crate) fn own_uid() -> u32 {
    crate::fs::system::user()
}

/// Both ends of a connection.
#[cfg(test)]
pub(crate) fn pair() -> (Stream, Stream) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = listen(folder.path()).expect("listens");
    let (_waker, wake) = waker().expect("a waker");
    std::thread::scope(|scope| {
        let reaching = scope.spawn(|| reach(folder.path(), Duration::from_secs(10)));
        assert!(await_client(&listener, &wake, Some(Duration::from_secs(10))).expect("waited"));
        let accepted = accept(&listener).expect("accepted");
        accepted.prove().expect("it knows the secret");
        (accepted, reaching.join().expect("a thread").expect("connected"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_note_replaces_a_stale_one_that_leads_nowhere() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        drop(listen(folder.path()).expect("the first owner"));
        assert_eq!(reach(folder.path(), LONG).expect_err("nobody listens").kind(), io::ErrorKind::NotFound);
        let _listener = listen(folder.path()).expect("the second owner");
        let (_waker, wake) = waker().expect("a waker");
        assert!(!await_client(&_listener, &wake, Some(Duration::from_millis(1))).expect("waited"));
    }

    #[test]
    fn bytes_go_both_ways_and_an_end_is_seen() {
        let (mut owner, mut client) = pair();
        client.write_all(b"question").expect("written");
        let mut question = [0; 8];
        owner.read_exact(&mut question).expect("read");
        assert_eq!(&question, b"question");
        owner.write_all(b"answer").expect("written");
        drop(owner);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("read");
        assert_eq!(answer, b"answer");
    }

    #[test]
    fn whoever_does_not_know_the_secret_is_neither_client_nor_owner() {
        let (folder, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let listener = listen(folder.path()).expect("listens");
        // The right pipe with another secret, as somebody has it who saw the names of the pipes.
        let guessed = Note::new().expect("a note").with_pipe_of(&listener.note);
        std::fs::write(other.path().join(SOCKET_NAME), guessed.to_string()).expect("written");
        let (_waker, wake) = waker().expect("a waker");
        std::thread::scope(|scope| {
            let reaching = scope.spawn(|| reach(other.path(), LONG));
            assert!(await_client(&listener, &wake, Some(LONG)).expect("waited"));
            let mut accepted = accept(&listener).expect("accepted");
            let refused = accepted.read(&mut [0]).expect_err("it proves nothing");
            assert!(
                matches!(refused.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::BrokenPipe),
                "{refused}"
            );
            drop(accepted);
            let refused = reaching.join().expect("a thread").expect_err("the owner proves nothing");
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn a_waker_wakes_who_waits() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = listen(folder.path()).expect("listens");
        let (waker, wake) = waker().expect("a waker");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| await_client(&listener, &wake, None));
            drop(waker);
            assert!(!waiting.join().expect("a thread").expect("waited"));
        });
    }
}
