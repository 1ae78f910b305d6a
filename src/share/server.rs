//! The owner's side: it listens in the store's folder and runs the calls of other processes, each connection in a thread
//! of its own, so that writes of many processes are committed together as those of many threads are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::call::{Answered, Call, CallHead, Host, ProgressMessage, Visitor, Work, visit};
use super::channel::{Broken, ErrorMessage, Message, Receiver, Sender, body_of, channel};
use super::hello::{Hello, Welcome, skew};
use super::socket::{
    Listener, SOCKET_NAME, Stream, Wake, Waker, accept, await_client, listen, make_waiting, own_uid, peer_of,
    waker,
};
use super::{Client, Sharing, Steps, lock};
use crate::embed::{Embedder, ModelIdentity};
use crate::error::{Error, ErrorKind, Result};
use crate::format::message::{MessageKind, PROTOCOL, Way, take, whole};
use crate::store::{Embeds, Engine, Holder, Moment, PastStore};

/// Most connections at once.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say who it is, and for each further piece of a message that it began.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to embed a text.
const EMBED_MAX: Duration = Duration::from_secs(120);
/// How often clients whose call takes long are told that it goes on.
const WORKING_INTERVAL: Duration = Duration::from_millis(500);
/// The past is closed when nobody has asked it for so long.
const PAST_IDLE_MAX: Duration = Duration::from_secs(30);

/// Serves other processes until it is stopped.
pub(crate) struct Server {
    shared: Arc<Shared>,
    folder: PathBuf,
    /// Dropping it wakes the thread that listens.
    waker: Option<Waker>,
    thread: Option<JoinHandle<()>>,
}

/// What the threads of a server share.
struct Shared {
    engine: Engine,
    steps: Steps,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Commits what connections do not wait for; there when the first of them is.
    committer: Mutex<Option<JoinHandle<()>>>,
    next: AtomicU64,
    stopping: AtomicBool,
    /// Whether nobody asks the committer for anything any more.
    is_over: AtomicBool,
    past: Mutex<Option<Past>>,
    holder: Holder,
    socket: PathBuf,
}

/// One client.
struct Connection {
    client: Mutex<Client>,
    stream: Stream,
    sender: Sender,
    call: Mutex<CallState>,
    /// Wakes its thread when a call was answered for which it did not wait.
    answered: Condvar,
    calls: AtomicU64,
    /// The thread that commits what this one does not wait for.
    committer: Thread,
}

/// How far the call of a connection is.
#[derive(Default)]
struct CallState {
    /// Since when it is run.
    since: Option<Instant>,
    /// Whether the connection's thread waits for its answer to be sent.
    is_awaited: bool,
}

/// The answer that a client waits for. Dropped, it lets the client go, which must not wait for an answer that nobody makes.
struct Owed(Option<Arc<Connection>>);

/// The store as it was, for those who asked for it.
struct Past {
    seq: u64,
    as_of: Arc<PastStore>,
    asked: Instant,
}

impl Server {
    /// Begins to serve. Whoever calls this holds the store's lock.
    pub(crate) fn start(engine: Engine, folder: &Path, holder: Holder, steps: Steps) -> io::Result<Self> {
        let listener = listen(folder)?;
        let (waker, wake) = waker()?;
        let shared = Arc::new(Shared {
            engine,
            steps,
            connections: Mutex::default(),
            threads: Mutex::default(),
            committer: Mutex::default(),
            next: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            past: Mutex::default(),
            holder,
            socket: folder.join(SOCKET_NAME),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("memento-serve".to_owned())
            .spawn(move || serve(&serving, &listener, &wake))?;
        Ok(Self { shared, folder: folder.to_owned(), waker: Some(waker), thread: Some(thread) })
    }

    /// Who owns the store and who asks.
    pub(crate) fn sharing(&self) -> Sharing {
        self.shared.sharing()
    }

    /// Whether anybody is connected.
    pub(crate) fn has_clients(&self) -> bool {
        !lock(&self.shared.connections).is_empty()
    }

    /// Ends what is asked just now, lets all clients go and waits for it.
    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.waker.take());
        // From here on nobody finds the owner any more; those who try wait for the lock.
        if let Err(error) = std::fs::remove_file(self.folder.join(SOCKET_NAME))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the socket stays; the next owner removes it");
        }
        if thread.join().is_err() {
            tracing::error!("the thread that listens has panicked");
        }
        let connections: Vec<_> = lock(&self.shared.connections).values().cloned().collect();
        for connection in &connections {
            // It reads an end, when it has answered what it is at.
            let _ = connection.stream.shutdown(std::net::Shutdown::Read);
        }
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        threads.into_iter().for_each(join);
        // All who serve are gone, and what they owed is answered.
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(committer) = lock(&self.shared.committer).take() {
            committer.thread().unpark();
            join(committer);
        }
        lock(&self.shared.past).take();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread that serves has panicked");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Takes connections until the waker is closed, and tells those who wait that their call goes on.
fn serve(shared: &Arc<Shared>, listener: &Listener, wake: &Wake) {
    loop {
        let is_alone = lock(&shared.connections).is_empty();
        let has_come = match await_client(listener, wake, (!is_alone).then_some(WORKING_INTERVAL)) {
            Ok(has_come) => has_come,
            Err(error) => {
                tracing::error!(%error, "nobody is served any more");
                return;
            }
        };
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        shared.tell_working();
        shared.close_past();
        if !has_come {
            continue;
        }
        match accept(listener) {
            Ok(stream) => {
                if let Err(error) = admit(shared, stream) {
                    tracing::warn!(%error, "a client was not served");
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a client could not connect");
                // Out of descriptors, say: it stays in the queue and would be tried again at once.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// Begins to serve a client, if it may be served.
fn admit(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    make_waiting(&stream)?;
    let peer = peer_of(&stream)?;
    if peer.is_some_and(|peer| peer.uid != own_uid()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it acts for another user"));
    }
    let (receiver, sender) = channel(stream.try_clone()?, Way::ToOwner)?;
    let mut connections = lock(&shared.connections);
    if connections.len() >= CONNECTIONS_MAX {
        drop(connections);
        let error =
            Error::new(ErrorKind::Busy, format!("the owner serves {CONNECTIONS_MAX} connections, the most"))
                .hint("end one of the programs that use this store; `memento-kv where` lists them");
        let _ = sender.send_value(MessageKind::Error, &ErrorMessage::from(&error));
        return Ok(());
    }
    let committer = shared.committer()?;
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    let client = Client { pid: peer.and_then(|peer| peer.pid), ..Client::default() };
    let connection = Arc::new(Connection {
        client: Mutex::new(client),
        stream,
        sender,
        call: Mutex::default(),
        answered: Condvar::new(),
        calls: AtomicU64::new(0),
        committer,
    });
    connections.insert(number, Arc::clone(&connection));
    drop(connections);
    let serving = Arc::clone(shared);
    let mut threads = lock(&shared.threads);
    threads.retain(|thread| !thread.is_finished());
    let spawned = std::thread::Builder::new().name("memento-client".to_owned()).spawn(move || {
        let leaving = Leaving { shared: &serving, connection: &connection, number };
        if let Err(broken) = serving.attend(&connection, receiver)
            && !matches!(broken, Broken::Gone)
        {
            tracing::warn!(%broken, client = lock(&connection.client).pid, "a client was let go");
        }
        connection.wait_answered();
        drop(leaving);
    });
    match spawned {
        Ok(thread) => threads.push(thread),
        Err(error) => {
            lock(&shared.connections).remove(&number);
            return Err(error);
        }
    }
    Ok(())
}

/// Lets a client go, also when the thread that served it panics: it must not wait for an answer that nobody makes.
struct Leaving<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.number);
        // Whoever still holds the connection must not keep the client waiting.
        let _ = self.connection.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    /// Answers what a client asks, until it is gone.
    fn attend(&self, connection: &Arc<Connection>, mut receiver: Receiver) -> Result<(), Broken> {
        let hello = match receiver.receive(Some(STALL_MAX), STALL_MAX) {
            Err(Broken::Protocol(theirs)) => {
                // It reads the protocol from the header of whatever comes.
                let error =
                    skew("the owner of the store", &format!("a client that speaks protocol {theirs}"));
                connection.sender.send_value(MessageKind::Error, &ErrorMessage::from(&error))?;
                return Err(Broken::Protocol(theirs));
            }
            hello => hello?,
        };
        let hello: Hello = hello.value(MessageKind::Hello)?;
        {
            let mut client = lock(&connection.client);
            (client.program, client.since_ms) = (hello.shown_program(), self.engine.now_ms());
            client.pid = client.pid.or(Some(hello.pid));
        }
        let welcome = Welcome {
            store_id: self.engine.store_id(),
            pid: std::process::id(),
            program: self.holder.program.clone().unwrap_or_default(),
            since_ms: self.holder.since_ms.unwrap_or_default(),
            is_read_only: self.engine.is_read_only(),
        };
        connection.sender.send_value(MessageKind::Welcome, &welcome)?;
        loop {
            let message = receiver.receive(None, STALL_MAX)?;
            // One call at a time, also of a client that does not wait for its answer.
            connection.wait_answered();
            if self.stopping.load(Ordering::Acquire) {
                // What was not begun is done by whoever owns the store next.
                return Ok(());
            }
            connection.calls.fetch_add(1, Ordering::Relaxed);
            self.answer(connection, &mut receiver, &message, hello.is_read_only)?;
        }
    }

    /// Runs a call and sends what came of it, or leaves that to whoever commits it.
    fn answer(
        &self,
        connection: &Arc<Connection>,
        receiver: &mut Receiver,
        message: &Message,
        is_read_only: bool,
    ) -> Result<(), Broken> {
        if message.kind != MessageKind::Call {
            return Err(Broken::Garbage(format!("a message {:?} where a call belongs", message.kind)));
        }
        let mut body = message.body.as_slice();
        let head: CallHead = take(&mut body)?;
        let running = Running { shared: self, connection, receiver, head, body, is_read_only };
        visit(head.kind, running).unwrap_or_else(|| {
            let error = skew("the owner of the store", &format!("a call {} of another version", head.kind));
            connection.sender.send_value(MessageKind::Error, &ErrorMessage::from(&error))
        })
    }

    /// The thread that commits what connections do not wait for.
    fn committer(self: &Arc<Self>) -> io::Result<Thread> {
        let mut committer = lock(&self.committer);
        if let Some(committer) = &*committer {
            return Ok(committer.thread().clone());
        }
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("memento-commit".to_owned())
            .spawn(move || shared.engine.lead_commits(|| shared.is_over.load(Ordering::Acquire)))?;
        let thread = started.thread().clone();
        *committer = Some(started);
        Ok(thread)
    }

    /// Tells clients whose call takes long that it goes on.
    fn tell_working(&self) {
        let connections: Vec<_> = lock(&self.connections).values().cloned().collect();
        for connection in connections {
            if lock(&connection.call).since.is_some_and(|since| since.elapsed() >= WORKING_INTERVAL) {
                // Its own thread finds out when it is gone.
                connection.sender.try_send(MessageKind::Working);
            }
        }
    }

    /// The engine of the past at this sequence.
    fn past(&self, seq: u64) -> Result<Arc<PastStore>> {
        let mut past = lock(&self.past);
        if let Some(past) = past.as_mut().filter(|past| past.seq == seq) {
            past.asked = Instant::now();
            return Ok(Arc::clone(&past.as_of));
        }
        let as_of = Arc::new(self.engine.as_of(Moment::Seq(seq))?);
        *past = Some(Past { seq, as_of: Arc::clone(&as_of), asked: Instant::now() });
        Ok(as_of)
    }

    fn close_past(&self) {
        // Without waiting: who opens one holds the lock for long.
        if let Ok(mut past) = self.past.try_lock()
            && past.as_ref().is_some_and(|past| past.asked.elapsed() >= PAST_IDLE_MAX)
        {
            past.take();
        }
    }
}

impl Host for Shared {
    fn sharing(&self) -> Sharing {
        let connections = lock(&self.connections);
        let clients = connections.values().map(|connection| Client {
            calls: connection.calls.load(Ordering::Relaxed),
            ..lock(&connection.client).clone()
        });
        Sharing {
            role: super::Role::Owner,
            pid: std::process::id(),
            program: self.holder.program.clone().unwrap_or_default(),
            since_ms: self.holder.since_ms.unwrap_or_default(),
            protocol: PROTOCOL,
            socket: Some(self.socket.clone()),
            clients: clients.collect(),
        }
    }

    fn open_past(&self, moment: Moment) -> Result<u64> {
        let seq = self.engine.seq_of(moment)?;
        self.past(seq)?;
        Ok(seq)
    }

    fn step_aside(&self) -> Result<()> {
        (self.steps)();
        Ok(())
    }
}

impl Connection {
    /// Waits until its call is answered.
    fn wait_answered(&self) {
        let mut call = lock(&self.call);
        while call.since.is_some() {
            call.is_awaited = true;
            call = self.answered.wait(call).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next call may begin.
    fn free(&self) {
        let call = std::mem::take(&mut *lock(&self.call));
        if call.is_awaited {
            self.answered.notify_one();
        }
    }
}

impl Owed {
    /// From now on it is owed.
    fn of(connection: &Arc<Connection>) -> Self {
        lock(&connection.call).since = Some(Instant::now());
        Self(Some(Arc::clone(connection)))
    }

    /// Sends it, which may take a while.
    fn give<A: bincode::Encode>(self, answer: Result<A>) -> Result<(), Broken> {
        let (kind, body) = told(answer)?;
        self.paid().sender.send(kind, &body)
    }

    /// Sends it without waiting: a client that does not take it is let go.
    fn give_now<A: bincode::Encode>(self, answer: Result<A>) {
        let sent = told(answer).and_then(|(kind, body)| {
            let connection = self.0.as_ref().expect("it is not paid yet");
            let sent = connection.sender.send_now(kind, &body);
            if sent.is_err() {
                let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            }
            // From here on the connection's thread runs the next call, and may answer it at once.
            self.paid();
            sent
        });
        if let Err(broken) = sent {
            tracing::debug!(%broken, "an answer was not taken");
        }
    }

    fn paid(mut self) -> Arc<Connection> {
        let connection = self.0.take().expect("it is paid once");
        connection.free();
        connection
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            connection.free();
        }
    }
}

/// An answer as a message.
fn told<A: bincode::Encode>(answer: Result<A>) -> Result<(MessageKind, Vec<u8>), Broken> {
    Ok(match answer {
        Ok(answer) => (MessageKind::Answer, body_of(&answer)?),
        Err(error) => (MessageKind::Error, body_of(&ErrorMessage::from(&error))?),
    })
}

/// A call that came, on its way to the type that it is.
struct Running<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
    receiver: &'a mut Receiver,
    head: CallHead,
    body: &'a [u8],
    is_read_only: bool,
}

impl Visitor for Running<'_> {
    type Out = Result<(), Broken>;

    fn visit<C: Call>(self) -> Self::Out {
        let call: C = whole(self.body)?;
        let owed = Owed::of(self.connection);
        let shared = self.shared;
        let remote = Remote { sender: &self.connection.sender, receiver: Mutex::new(self.receiver) };
        let mut lost = None;
        let mut progress = |stage, progress| {
            let sent =
                self.connection.sender.send_value(MessageKind::Progress, &ProgressMessage(stage, progress));
            lost = lost.take().or(sent.err());
        };
        let run = || {
            if C::WRITES && self.is_read_only {
                return Err(Error::new(ErrorKind::ReadOnly, "the store is open for reading only"));
            }
            let mut work = Work { by: Some(&remote), progress: &mut progress, host: shared };
            if let Some(seq) = self.head.past {
                return call.run(&**shared.past(seq)?, &mut work).map(Answered::Now);
            }
            if let Some(after_seq) = self.head.resent_after
                && let Some(answer) = call.done(&shared.engine, after_seq)?
            {
                return Ok(Answered::Now(answer));
            }
            call.begin(&shared.engine, &mut work)
        };
        let answer = run();
        if let Some(broken) = lost {
            return Err(broken);
        }
        match answer {
            Ok(Answered::Soon(promised)) => {
                promised.then(&self.connection.committer, move |answer| owed.give_now(answer));
                Ok(())
            }
            Ok(Answered::Now(answer)) => owed.give(Ok(answer)),
            Err(error) => owed.give::<C::Answer>(Err(error)),
        }
    }
}

/// The client's embedders, asked over its connection.
struct Remote<'a> {
    sender: &'a Sender,
    receiver: Mutex<&'a mut Receiver>,
}

impl Embeds for Remote<'_> {
    fn embedder_of(&self, model: Option<&ModelIdentity>) -> Result<Option<Box<dyn Embedder + '_>>> {
        let identity =
            self.ask::<_, Option<ModelIdentity>>(MessageKind::AskModel, &model.cloned(), MessageKind::Model)?;
        Ok(identity.map(|identity| Box::new(RemoteEmbedder { remote: self, identity }) as _))
    }
}

impl Remote<'_> {
    /// Asks the client while it waits for its answer.
    fn ask<Q: bincode::Encode, A: bincode::Decode<()>>(
        &self,
        kind: MessageKind,
        question: &Q,
        answer: MessageKind,
    ) -> Result<A> {
        let asked = || -> Result<Result<A, ErrorMessage>, Broken> {
            let mut receiver = lock(&self.receiver);
            self.sender.send_value(kind, question)?;
            receiver.receive(Some(EMBED_MAX), STALL_MAX)?.value(answer)
        };
        match asked() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.into()),
            Err(broken) => Err(Error::new(ErrorKind::Model, format!("the client does not embed: {broken}"))),
        }
    }
}

struct RemoteEmbedder<'a, 'b> {
    remote: &'a Remote<'b>,
    identity: ModelIdentity,
}

impl Embedder for RemoteEmbedder<'_, '_> {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn embed_document(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        self.remote.ask(MessageKind::Embed, &(false, text), MessageKind::Vectors)
    }

    fn embed_query(&self, query: &str) -> Result<Vec<f32>> {
        let mut vectors: Vec<Vec<f32>> =
            self.remote.ask(MessageKind::Embed, &(true, query), MessageKind::Vectors)?;
        vectors.pop().ok_or_else(|| Error::new(ErrorKind::Model, "the client gave no vector"))
    }
}
