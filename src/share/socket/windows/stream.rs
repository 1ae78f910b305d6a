//! One end of a connection over a pipe, with time limits, as a socket has them.
//!
//! Pipes know no time limits by themselves, so what waits is a future, polled by the thread that waits; one thread of this
//! process is told by the system what has happened and wakes it. Nothing here needs to know whether the thread already
//! runs futures of somebody else.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use interprocess::os::windows::named_pipe::pipe_mode::Bytes;
use interprocess::os::windows::named_pipe::tokio::DuplexPipeStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{EnterGuard, Handle};

use super::proof::{NONCE_LEN, Note, PROOF_LEN, Side, random};

/// How long a client may take to prove itself.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an owner may take, which may be busy.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);
/// The other end was let go (winerror.h).
const ERROR_PIPE_NOT_CONNECTED: i32 = 233;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Shared>);

struct Shared {
    /// Nothing when it was shut down.
    pipe: Mutex<Option<Arc<DuplexPipeStream<Bytes>>>>,
    peer_pid: Option<u32>,
    /// Nothing more is read.
    is_hushed: AtomicBool,
    reads: Mutex<Option<Waker>>,
    /// Of the owner's end, until the client has proven itself.
    unproven: Mutex<Option<Note>>,
    is_proven: AtomicBool,
    /// In nanoseconds; 0 stands for none.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("peer_pid", &self.peer_pid).finish_non_exhaustive()
    }
}

impl Stream {
    /// The owner's end; the client proves itself when the first byte is read or written.
    pub(super) fn of_owner(pipe: DuplexPipeStream<Bytes>, note: Note) -> Self {
        Self::new(pipe, Some(note))
    }

    /// A client's end, after both have proven themselves.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] when the owner has just ended, and what else comes of it.
    pub(super) fn of_client(pipe: DuplexPipeStream<Bytes>, note: &Note) -> io::Result<Self> {
        Self::introduced(Self::new(pipe, None), note).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::ConnectionReset.into(),
            _ => error,
        })
    }

    fn introduced(stream: Self, note: &Note) -> io::Result<Self> {
        let wait = Some(OWNER_PATIENCE);
        let nonce = random::<NONCE_LEN>()?;
        stream.write_whole(&nonce, wait)?;
        let proof = stream.read_proof::<PROOF_LEN>(wait)?;
        let asked = stream.read_proof::<NONCE_LEN>(wait)?;
        if proof != note.proof(Side::Owner, &nonce) {
            return Err(unproven("whoever listens there has not read the note of the owner"));
        }
        stream.write_whole(&note.proof(Side::Client, &asked), wait)?;
        Ok(stream)
    }

    fn new(pipe: DuplexPipeStream<Bytes>, unproven: Option<Note>) -> Self {
        let peer_pid = pipe.peer_process_id().ok();
        Self(Arc::new(Shared {
            pipe: Mutex::new(Some(Arc::new(pipe))),
            peer_pid,
            is_hushed: AtomicBool::new(false),
            reads: Mutex::default(),
            is_proven: AtomicBool::new(unproven.is_none()),
            unproven: Mutex::new(unproven),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
        }))
    }

    /// The process at the other end.
    pub(super) fn peer_pid(&self) -> Option<u32> {
        self.0.peer_pid
    }

    /// Another handle of the same end.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(Arc::clone(&self.0)))
    }

    /// How long a call that reads waits; for ever with none.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.read_timeout.store(nanoseconds(timeout), Ordering::Relaxed);
        Ok(())
    }

    /// How long a call that writes waits; for ever with none.
    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.write_timeout.store(nanoseconds(timeout), Ordering::Relaxed);
        Ok(())
    }

    /// Ends reading here, or the connection for both ends.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            // It is closed when the last call that uses it just now is over, and those are ended here.
            locked(&self.0.pipe).take();
        }
        self.0.is_hushed.store(true, Ordering::Release);
        if let Some(waker) = locked(&self.0.reads).take() {
            waker.wake();
        }
        Ok(())
    }

    /// Writes whole, unless that would wait or the other end has not proven itself.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.0.is_proven.load(Ordering::Acquire) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let pipe = self.pipe()?;
        let _context = enter()?;
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut &*pipe).poll_write(&mut context, bytes) {
            Poll::Ready(Ok(written)) if written == bytes.len() => Ok(()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Lets the other end prove itself and proves this one, once.
    pub(super) fn prove(&self) -> io::Result<()> {
        if self.0.is_proven.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut unproven_yet = locked(&self.0.unproven);
        let Some(note) = unproven_yet.as_ref() else { return Ok(()) };
        let asked = self.read_proof::<NONCE_LEN>(Some(PROOF_TIMEOUT))?;
        let nonce = random::<NONCE_LEN>()?;
        let mut answer = note.proof(Side::Owner, &asked).to_vec();
        answer.extend(nonce);
        self.write_whole(&answer, Some(PROOF_TIMEOUT))?;
        if self.read_proof::<PROOF_LEN>(Some(PROOF_TIMEOUT))? != note.proof(Side::Client, &nonce) {
            return Err(unproven("it has not read the note of this owner"));
        }
        *unproven_yet = None;
        self.0.is_proven.store(true, Ordering::Release);
        Ok(())
    }

    fn pipe(&self) -> io::Result<Arc<DuplexPipeStream<Bytes>>> {
        locked(&self.0.pipe).clone().ok_or(io::ErrorKind::NotConnected.into())
    }

    fn read_proof<const LEN: usize>(&self, timeout: Option<Duration>) -> io::Result<[u8; LEN]> {
        let (mut bytes, mut have) = ([0; LEN], 0);
        while have < LEN {
            match self.read_some(&mut bytes[have..], timeout)? {
                0 => return Err(io::ErrorKind::BrokenPipe.into()),
                read => have += read,
            }
        }
        Ok(bytes)
    }

    fn read_some(&self, buffer: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        let Ok(pipe) = self.pipe() else { return Ok(0) };
        let read = wait_for(
            timeout,
            std::future::poll_fn(|context| {
                *locked(&self.0.reads) = Some(context.waker().clone());
                if self.0.is_hushed.load(Ordering::Acquire) {
                    return Poll::Ready(Ok(0));
                }
                let mut filled = ReadBuf::new(buffer);
                let polled = Pin::new(&mut &*pipe).poll_read(context, &mut filled);
                polled.map(|read| read.map(|()| filled.filled().len()))
            }),
        );
        match read {
            Err(error) if is_end(&error) => Ok(0),
            read => read,
        }
    }

    fn write_some(&self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<usize> {
        let pipe = self.pipe()?;
        wait_for(timeout, std::future::poll_fn(|context| Pin::new(&mut &*pipe).poll_write(context, bytes)))
            .map_err(|error| if is_end(&error) { io::ErrorKind::BrokenPipe.into() } else { error })
    }

    fn write_whole(&self, mut bytes: &[u8], timeout: Option<Duration>) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(bytes, timeout)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.prove()?;
        self.read_some(buffer, duration(&self.0.read_timeout))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.prove()?;
        self.write_some(bytes, duration(&self.0.write_timeout))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets pipes be made and waited for in this thread.
pub(super) fn enter() -> io::Result<EnterGuard<'static>> {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if RUNTIME.get().is_none() {
        let _starting = locked(&STARTING);
        if RUNTIME.get().is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let handle = runtime.handle().clone();
            std::thread::Builder::new()
                .name("memento-pipes".to_owned())
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
            RUNTIME.get_or_init(|| handle);
        }
    }
    Ok(RUNTIME.get().expect("it was started just now").enter())
}

/// Waits until a future is ready, or for so long.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], and what comes of the future.
pub(super) fn wait_for<T>(
    timeout: Option<Duration>,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let _context = enter()?;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        if let Poll::Ready(ready) = future.as_mut().poll(&mut context) {
            return ready;
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(left) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Some(left) => std::thread::park_timeout(left),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED)
}

fn unproven(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

fn nanoseconds(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1))
}

fn duration(nanoseconds: &AtomicU64) -> Option<Duration> {
    Some(nanoseconds.load(Ordering::Relaxed)).filter(|timeout| *timeout > 0).map(Duration::from_nanos)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
