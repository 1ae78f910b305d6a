//! Fetching a model from the hub: the only code of the crate that uses the network, and only when a user asks.
//!
//! The files are fetched into a hidden folder beside their place, compared with the length and the hash that the hub
//! states, synced, and moved to their place by one rename. Until then nothing is there under the model's name, and a
//! failure removes what it fetched.

use std::borrow::Cow;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fastembed::{EmbeddingModel, ModelInfo, OutputKey, Pooling, TextEmbedding};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};
use sha2::{Digest, Sha256};

use super::folder::{
    MODEL_FILE, ModelFolder, PoolingName, SETTINGS_FILE, Settings, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, hex,
};
use super::{guarded, model_error};
use crate::embed::choice::{PullProgress, PullableModel};
use crate::error::{Error, ErrorKind, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// Where to fetch from.
struct Hub {
    endpoint: String,
    token: Option<String>,
    /// The user's own cache of the hub: what is there is not fetched again, and what is fetched is left there.
    cache: Option<PathBuf>,
}

/// The models that fastembed knows, sorted by name.
pub(in crate::embed) fn list() -> Vec<PullableModel> {
    let mut models: Vec<PullableModel> = TextEmbedding::list_supported_models()
        .into_iter()
        .map(|info| PullableModel {
            name: info.model.to_string(),
            repository: info.model_code,
            dimensions: u32::try_from(info.dim).unwrap_or(u32::MAX),
            description: info.description,
        })
        .collect();
    models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    models
}

pub(in crate::embed) fn pull(
    name: &str,
    models_dir: &Path,
    progress: &mut dyn FnMut(PullProgress<'_>),
) -> Result<PathBuf> {
    pull_from(&Hub::of_this_process(), name, models_dir, progress)
}

fn pull_from(
    hub: &Hub,
    name: &str,
    models_dir: &Path,
    progress: &mut dyn FnMut(PullProgress<'_>),
) -> Result<PathBuf> {
    let models = TextEmbedding::list_supported_models();
    let info = models.into_iter().find(|info| info.model.to_string().eq_ignore_ascii_case(name)).ok_or_else(
        || model_error(format!("no model is called {name:?}")).hint("`memento-kv model list` shows all"),
    )?;
    fs::create_dir_all(models_dir).map_err(|error| Error::io("creating the folder", models_dir, error))?;
    // hf-hub makes links between absolute paths.
    let models_dir =
        models_dir.canonicalize().map_err(|error| Error::io("opening the folder", models_dir, error))?;
    let folder = models_dir.join(info.model.to_string());
    let _lock = lock(&models_dir)?;
    if folder.exists() {
        return match ModelFolder::open(&folder) {
            Ok(_) => Ok(folder),
            Err(error) => Err(error.hint("delete this folder to fetch the model again")),
        };
    }
    let half_made = HalfMade::create(models_dir.join(format!(".pull-{}", info.model)))?;
    fetch(hub, &info, &half_made, progress)?;
    half_made.finish(&folder)?;
    tracing::info!(model = %info.model, "fetched a model");
    Ok(folder)
}

/// One process at a time fetches into a folder. The lock is on the folder itself, so it leaves no file behind.
fn lock(models_dir: &Path) -> Result<File> {
    let folder =
        File::open(models_dir).map_err(|error| Error::io("opening the folder", models_dir, error))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Busy, "another process is fetching a model here").at(models_dir))
        }
        Err(TryLockError::Error(error)) => Err(Error::io("locking the folder", models_dir, error)),
    }
}

fn fetch(
    hub: &Hub,
    info: &ModelInfo<EmbeddingModel>,
    half_made: &HalfMade,
    progress: &mut dyn FnMut(PullProgress<'_>),
) -> Result<()> {
    let api = hub.api(&half_made.cache())?;
    let repo = api.model(info.model_code.clone());
    let cached = Cache::new(hub.cache.clone().unwrap_or_else(|| half_made.cache()))
        .repo(Repo::model(info.model_code.clone()));
    let mut external_files = Vec::with_capacity(info.additional_files.len());
    let mut wanted = vec![
        (TOKENIZER_FILE, Cow::Borrowed(TOKENIZER_FILE)),
        (TOKENIZER_CONFIG_FILE, Cow::Borrowed(TOKENIZER_CONFIG_FILE)),
    ];
    for remote in &info.additional_files {
        // The model refers to them by their names beside it.
        let name = remote.rsplit('/').next().unwrap_or(remote);
        external_files.push(name.to_owned());
        wanted.push((remote, Cow::Borrowed(name)));
    }
    wanted.push((&info.model_file, Cow::Borrowed(MODEL_FILE)));
    for (remote, local) in wanted {
        let found = match cached.get(remote) {
            Some(found) => found,
            None => download(&api, &repo, remote, progress).map_err(|error| {
                let (repository, endpoint) = (&info.model_code, hub.shown());
                error.context(format!("{remote} of {repository} from {endpoint}"), half_made)
            })?,
        };
        half_made.take(&found, &local, hub.cache.is_none())?;
    }
    let settings = serde_json::to_vec_pretty(&settings_of(info, external_files))
        .map_err(|error| model_error(error.to_string()))?;
    half_made.write(SETTINGS_FILE, &settings)
}

/// Why a file was not fetched.
enum Failure {
    Hub(ApiError),
    Other(String),
}

impl Failure {
    fn context(self, what: String, half_made: &HalfMade) -> Error {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let reason = match self {
            Self::Hub(ApiError::IoError(error))
                if matches!(
                    error.kind(),
                    PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
                ) =>
            {
                return Error::io("writing a fetched file", &half_made.path, error);
            }
            Self::Hub(error) => error.to_string(),
            Self::Other(reason) => reason,
        };
        model_error(format!("fetching {what}: {reason}"))
            .hint("check the network, or set HF_ENDPOINT to a mirror of the hub; nothing was kept")
    }
}

/// Fetches one file into the cache and compares it with what the hub says of it.
fn download(
    api: &Api,
    repo: &ApiRepo,
    remote: &str,
    progress: &mut dyn FnMut(PullProgress<'_>),
) -> Result<PathBuf, Failure> {
    let mut call = || {
        let metadata = api.metadata(&repo.url(remote)).map_err(Failure::Hub)?;
        // hf-hub makes names of files from these two.
        let (etag, commit) = (metadata.etag(), metadata.commit_hash());
        if etag.starts_with('/') || etag.contains("..") || commit.contains(['/', '.']) {
            return Err(Failure::Other("the hub's answer has a name that is none".to_owned()));
        }
        let report = Report { file: remote, done: 0, total: metadata.size() as u64, tell: progress };
        let path = repo.download_with_progress(remote, report).map_err(Failure::Hub)?;
        check(&path, metadata.size() as u64, etag).map_err(Failure::Other)?;
        Ok(path)
    };
    // hf-hub asserts what it thinks of the server and of the disk.
    guarded(|| Ok::<_, String>(call()))
        .unwrap_or_else(|error| Err(Failure::Other(error.message().to_owned())))
}

/// Compares a fetched file with its length and, where the hub gives a SHA-256 (for all large files), with that.
fn check(path: &Path, len: u64, etag: &str) -> Result<(), String> {
    let compare = || -> io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let found = file.metadata()?.len();
        if found != len {
            return Ok(Some(format!("{found} bytes came, {len} were announced")));
        }
        if etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let hash = sha256(&mut file)?;
            if !hash.eq_ignore_ascii_case(etag) {
                return Ok(Some(format!("SHA-256 is {hash}, {etag} was announced")));
            }
        }
        Ok(None)
    };
    let wrong = compare().unwrap_or_else(|error| Some(error.to_string()));
    let Some(wrong) = wrong else { return Ok(()) };
    // In the user's own cache it would be believed the next time.
    for path in [path.canonicalize().as_deref(), Ok(path)].into_iter().flatten() {
        let _ = fs::remove_file(path);
    }
    Err(wrong)
}

fn sha256(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            len => hasher.update(&buffer[..len]),
        }
    }
}

impl Hub {
    fn of_this_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME").map(PathBuf::from);
        let mirror = variable("HF_ENDPOINT");
        // The token of a login is for the hub that it was made at. A mirror gets only the one that is given with it.
        let login = match (&mirror, &home) {
            (Some(_), _) => None,
            (None, Some(home)) => Some(home.clone()),
            (None, None) => std::env::home_dir().map(|user| user.join(".cache/huggingface")),
        };
        Self {
            endpoint: mirror.unwrap_or_else(|| ENDPOINT.to_owned()),
            token: variable("HF_TOKEN")
                .map(|token| token.trim().to_owned())
                .or_else(|| Cache::new(login?.join("hub")).token()),
            cache: home.and_then(|home| std::path::absolute(home.join("hub")).ok()),
        }
    }

    fn api(&self, own_cache: &Path) -> Result<Api> {
        let cache = self.cache.clone().unwrap_or_else(|| own_cache.to_owned());
        let endpoint = self.endpoint.trim_end_matches('/').to_owned();
        let builder = ApiBuilder::from_cache(Cache::new(cache))
            .with_endpoint(endpoint)
            .with_token(self.token.clone())
            .with_progress(false);
        guarded(|| builder.build())
    }

    /// The endpoint without a user name and password.
    fn shown(&self) -> &str {
        self.endpoint.rsplit('@').next().unwrap_or(&self.endpoint)
    }
}

/// Passes hf-hub's steps on as sums.
struct Report<'a> {
    file: &'a str,
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(PullProgress<'_>),
}

impl Report<'_> {
    fn tell(&mut self) {
        (self.tell)(PullProgress { file: self.file, done_bytes: self.done, total_bytes: self.total });
    }
}

impl Progress for Report<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        (self.done, self.total) = (0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        if size > 0 {
            self.done += size as u64;
            self.tell();
        }
    }

    fn finish(&mut self) {}
}

/// A hidden folder in which a model is made. It goes when the model is finished, and when it never will be.
struct HalfMade {
    path: PathBuf,
}

impl HalfMade {
    fn create(path: PathBuf) -> Result<Self> {
        // What a killed process left.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("removing the folder", &path, error));
            }
            _ => {}
        }
        let half_made = Self { path };
        fs::create_dir_all(half_made.model()).map_err(|error| half_made.io("creating the folder", error))?;
        Ok(half_made)
    }

    /// hf-hub's cache, when the user has none.
    fn cache(&self) -> PathBuf {
        self.path.join("hub")
    }

    fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Puts a fetched file among the model's: moves it, or copies it when it is to stay where it is.
    fn take(&self, found: &Path, name: &str, moved: bool) -> Result<()> {
        let to = self.model().join(name);
        let put = || {
            // The name in the cache is a link; what it points to is the file.
            let file = found.canonicalize()?;
            if moved { fs::rename(file, &to) } else { fs::copy(file, &to).map(drop) }?;
            File::open(&to)?.sync_all()
        };
        put().map_err(|error| self.io("putting a fetched file in its place", error))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let to = self.model().join(name);
        let put = || {
            fs::write(&to, bytes)?;
            File::open(&to)?.sync_all()
        };
        put().map_err(|error| self.io("writing the model's settings", error))
    }

    fn finish(self, folder: &Path) -> Result<()> {
        let put = || {
            File::open(self.model())?.sync_all()?;
            fs::rename(self.model(), folder)?;
            folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        put().map_err(|error| self.io("putting the model in its place", error))
    }

    fn io(&self, operation: &'static str, error: io::Error) -> Error {
        Error::io(operation, &self.path, error)
    }
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pull of this model.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What a folder must say of a model that fastembed knows by its name.
fn settings_of(info: &ModelInfo<EmbeddingModel>, external_files: Vec<String>) -> Settings {
    let (query_prefix, document_prefix) = prefixes(&info.model);
    Settings {
        name: Some(info.model_code.clone()),
        pooling: match TextEmbedding::get_default_pooling_method(&info.model) {
            Some(Pooling::Cls) => PoolingName::Cls,
            Some(Pooling::Mean) | None => PoolingName::Mean,
        },
        max_tokens: max_tokens(&info.model),
        query_prefix: query_prefix.to_owned(),
        document_prefix: document_prefix.to_owned(),
        output: match info.output_key {
            Some(OutputKey::ByName(name)) => Some(name.to_owned()),
            _ => None,
        },
        external_files,
    }
}

/// What a model was trained to see before a query and before a document. Models that do well without have none.
fn prefixes(model: &EmbeddingModel) -> (&'static str, &'static str) {
    use EmbeddingModel as M;
    const ASK_FOR_PASSAGES: &str = "Represent this sentence for searching relevant passages: ";
    match model {
        M::MultilingualE5Small | M::MultilingualE5Base | M::MultilingualE5Large => ("query: ", "passage: "),
        M::NomicEmbedTextV1 | M::NomicEmbedTextV15 | M::NomicEmbedTextV15Q | M::ModernBertEmbedLarge => {
            ("search_query: ", "search_document: ")
        }
        M::EmbeddingGemma300M | M::EmbeddingGemma300MQ4 | M::EmbeddingGemma300MQ => {
            ("task: search result | query: ", "title: none | text: ")
        }
        M::MxbaiEmbedLargeV1
        | M::MxbaiEmbedLargeV1Q
        | M::SnowflakeArcticEmbedXS
        | M::SnowflakeArcticEmbedXSQ
        | M::SnowflakeArcticEmbedS
        | M::SnowflakeArcticEmbedSQ
        | M::SnowflakeArcticEmbedM
        | M::SnowflakeArcticEmbedMQ
        | M::SnowflakeArcticEmbedMLong
        | M::SnowflakeArcticEmbedMLongQ
        | M::SnowflakeArcticEmbedL
        | M::SnowflakeArcticEmbedLQ => (ASK_FOR_PASSAGES, ""),
        _ => ("", ""),
    }
}

/// The window that a model was trained with, where its tokenizer's configuration states a longer one.
fn max_tokens(model: &EmbeddingModel) -> Option<u32> {
    use EmbeddingModel as M;
    match model {
        M::AllMiniLML6V2 | M::AllMiniLML6V2Q => Some(256),
        M::AllMpnetBaseV2 => Some(384),
        M::AllMiniLML12V2
        | M::AllMiniLML12V2Q
        | M::ParaphraseMLMiniLML12V2
        | M::ParaphraseMLMiniLML12V2Q
        | M::ParaphraseMLMpnetBaseV2 => Some(128),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    const REPOSITORY: &str = "Qdrant/all-MiniLM-L6-v2-onnx";
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A file as the server has it, and what it says of it.
    #[derive(Clone)]
    struct Served {
        bytes: Vec<u8>,
        etag: String,
        announced_len: usize,
    }

    impl Served {
        fn new(bytes: &[u8]) -> Self {
            Self { bytes: bytes.to_vec(), etag: hex(&Sha256::digest(bytes)), announced_len: bytes.len() }
        }
    }

    /// As much of the hub as a fetch needs, on a port of this machine.
    struct Server {
        hub: Hub,
        files: Arc<Mutex<BTreeMap<String, Served>>>,
        requests: Arc<AtomicUsize>,
    }

    impl Server {
        fn new(cache: Option<PathBuf>) -> Self {
            let files = BTreeMap::from([
                (format!("{REPOSITORY}/model.onnx"), Served::new(&[7; 100_000])),
                (format!("{REPOSITORY}/tokenizer.json"), Served::new(b"{}")),
                (format!("{REPOSITORY}/tokenizer_config.json"), Served::new(b"{\"model_max_length\": 512}")),
            ]);
            let (files, requests) = (Arc::new(Mutex::new(files)), Arc::new(AtomicUsize::new(0)));
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let endpoint = format!("http://{}/", listener.local_addr().expect("its address"));
            let (served, counted) = (Arc::clone(&files), Arc::clone(&requests));
            // The thread ends with the test process.
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(io::Result::ok) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let files = served.lock().expect("no panic").clone();
                    // A client that goes away is no matter.
                    let _ = answer(stream, &files);
                }
            });
            Self { hub: Hub { endpoint, token: None, cache }, files, requests }
        }

        fn change(&self, file: &str, change: impl FnOnce(&mut Served)) {
            let mut files = self.files.lock().expect("no panic");
            change(files.get_mut(&format!("{REPOSITORY}/{file}")).expect("a file"));
        }

        fn pull(&self, models: &Path) -> Result<PathBuf> {
            pull_from(&self.hub, "allminilml6v2", models, &mut |_| {})
        }
    }

    fn answer(stream: TcpStream, files: &BTreeMap<String, Served>) -> io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut from = 0;
        let mut only_first = false;
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                (from, only_first) =
                    (range.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0), range == "0-0");
            }
            if line.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let mut stream = stream;
        let Some(Served { bytes, etag, announced_len }) = files.get(&path.replace("/resolve/main/", "/"))
        else {
            return stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let body =
            if only_first { &bytes[..1.min(bytes.len())] } else { bytes.get(from..).unwrap_or_default() };
        let len = if only_first { body.len() } else { announced_len.saturating_sub(from) };
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\nContent-Range: bytes {from}-{from}/{announced_len}\r\n\
             ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n"
        )?;
        stream.write_all(&body[..len.min(body.len())])
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_model_is_fetched_once_and_its_folder_is_a_whole_model() {
        let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
        let models = root.path().join("not/there/yet");
        let mut reports: Vec<(String, u64, u64)> = Vec::new();
        let mut tell = |p: PullProgress<'_>| reports.push((p.file.to_owned(), p.done_bytes, p.total_bytes));
        let folder = pull_from(&server.hub, "allminilml6v2", &models, &mut tell).expect("fetched");
        assert_eq!(names(&models), ["AllMiniLML6V2"], "nothing but the model is left");
        assert_eq!(names(&folder), [SETTINGS_FILE, MODEL_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE]);
        assert_eq!(fs::read(folder.join(MODEL_FILE)).expect("the model"), [7; 100_000]);
        assert!(fs::symlink_metadata(folder.join(MODEL_FILE)).expect("the model").is_file(), "no link");
        assert_eq!(reports.last(), Some(&(MODEL_FILE.to_owned(), 100_000, 100_000)));
        let model = ModelFolder::open(&folder).expect("a model");
        assert_eq!((model.name(), model.max_tokens), (REPOSITORY, 256));
        assert_eq!(model.settings.pooling, PoolingName::Mean);

        let requests = server.requests.load(Ordering::Relaxed);
        assert_eq!(server.pull(&models).expect("there"), folder);
        assert_eq!(server.requests.load(Ordering::Relaxed), requests, "no network for a model that is there");
    }

    #[test]
    fn whatever_goes_wrong_is_an_error_and_leaves_nothing() {
        type Harm = fn(&Server);
        let harms: [(&str, Harm); 8] = [
            ("a missing file", |s| {
                s.files.lock().expect("no panic").retain(|name, _| !name.ends_with(".onnx"))
            }),
            ("other bytes than announced", |s| s.change(MODEL_FILE, |f| f.bytes[5_000] ^= 1)),
            ("a body that ends early", |s| s.change(MODEL_FILE, |f| f.bytes.truncate(60_000))),
            ("an empty body", |s| s.change(TOKENIZER_FILE, |f| f.bytes.clear())),
            ("a hash that climbs out", |s| s.change(MODEL_FILE, |f| f.etag = "../../../x".to_owned())),
            ("an absolute hash", |s| s.change(MODEL_FILE, |f| f.etag = "/tmp/x".to_owned())),
            ("no hash", |s| s.change(TOKENIZER_FILE, |f| f.etag = String::new())),
            ("no model at all", |s| s.files.lock().expect("no panic").clear()),
        ];
        for (what, harm) in harms {
            let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
            let whole = server.files.lock().expect("no panic").clone();
            harm(&server);
            let error = server.pull(root.path()).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Model, "{what}: {error}");
            assert!(error.message().contains(REPOSITORY) && error.hint_text().is_some(), "{what}: {error}");
            assert_eq!(names(root.path()), [""; 0], "{what}");
            *server.files.lock().expect("no panic") = whole;
            server.pull(root.path()).expect("it works once the hub does");
        }
    }

    #[test]
    fn a_hub_that_is_not_there_is_an_error_with_a_hint() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let endpoint = format!("http://user:secret@127.0.0.1:{port}");
        let hub = Hub { endpoint, token: None, cache: None };
        let error = pull_from(&hub, "AllMiniLML6V2", root.path(), &mut |_| {}).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("HF_ENDPOINT")));
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(names(root.path()), [""; 0]);
    }

    #[test]
    fn the_users_own_cache_is_used_and_kept_but_never_with_damage() {
        let (cache, root) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let server = Server::new(Some(cache.path().to_owned()));
        server.change(MODEL_FILE, |file| file.bytes[0] ^= 1);
        server.pull(&root.path().join("a")).expect_err("damaged on its way");
        server.change(MODEL_FILE, |file| file.bytes[0] ^= 1);
        let first = server.pull(&root.path().join("a")).expect("fetched");
        server.files.lock().expect("no panic").clear();
        let requests = server.requests.load(Ordering::Relaxed);
        let second = server.pull(&root.path().join("b")).expect("from the cache");
        assert_eq!(server.requests.load(Ordering::Relaxed), requests);
        for name in names(&first) {
            assert_eq!(
                fs::read(first.join(&name)).expect("a file"),
                fs::read(second.join(&name)).expect("a file")
            );
        }
        assert_eq!(fs::read(second.join(MODEL_FILE)).expect("the model"), [7; 100_000]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
        let left = root.path().join(".pull-AllMiniLML6V2/model");
        fs::create_dir_all(&left).expect("a folder");
        fs::write(left.join("half"), b"half").expect("written");
        let folder = server.pull(root.path()).expect("fetched");
        assert!(!folder.join("half").exists());
        assert_eq!(names(root.path()), ["AllMiniLML6V2"]);
    }

    #[test]
    fn two_processes_do_not_fetch_into_one_folder() {
        let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
        let held = lock(root.path()).expect("free");
        assert_eq!(server.pull(root.path()).expect_err("held").kind(), ErrorKind::Busy);
        drop(held);
        server.pull(root.path()).expect("free again");
    }

    #[test]
    fn a_folder_that_is_no_whole_model_is_left_alone() {
        let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
        let mine = root.path().join("AllMiniLML6V2");
        fs::create_dir(&mine).expect("a folder");
        fs::write(mine.join("notes"), b"mine").expect("written");
        let error = server.pull(root.path()).expect_err("it is taken");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("delete this folder")));
        assert_eq!(names(&mine), ["notes"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_without_network() {
        let (server, root) = (Server::new(None), tempfile::tempdir().expect("a temporary folder"));
        for name in ["", "nonsense", "../AllMiniLML6V2"] {
            let error = pull_from(&server.hub, name, root.path(), &mut |_| {}).expect_err("no such model");
            assert_eq!(error.kind(), ErrorKind::Model);
        }
        assert_eq!(server.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn settings_of_every_model_are_ones_that_a_folder_may_have() {
        for info in TextEmbedding::list_supported_models() {
            let external = info.additional_files.iter().filter_map(|file| file.rsplit('/').next());
            let settings = settings_of(&info, external.map(str::to_owned).collect());
            assert!(crate::embed::onnx::output_key(&settings).is_ok(), "{}", info.model);
            assert!(settings.external_files.iter().all(|name| crate::embed::choice::is_name(name)));
            let json = serde_json::to_string(&settings).expect("JSON");
            assert_eq!(serde_json::from_str::<Settings>(&json).expect("the same"), settings);
        }
    }
}
