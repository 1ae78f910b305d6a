//! Finding and loading ONNX Runtime.
//!
//! `ort` panics when it is used before a library is loaded and finds none. So the library is looked for here, loaded
//! with the one call that returns an error instead, and everything else of `ort` and fastembed comes after it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::logging::LogLevel;

use super::{guarded, model_error};
use crate::error::{Error, Result};

/// The library's name without a version.
const LIBRARY: &str = match std::env::consts::DLL_SUFFIX.as_bytes() {
    b".dylib" => "libonnxruntime.dylib",
    b".dll" => "onnxruntime.dll",
    _ => "libonnxruntime.so",
};
const HINT: &str = "run `pip install onnxruntime`, then set MEMENTO_ORT_DYLIB to the libonnxruntime of the folder \
                    `onnxruntime/capi` that `pip show -f onnxruntime` lists";

/// ONNX Runtime can be set up once in a process, and stays.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The ONNX Runtime of this process, loaded at the first call.
pub(super) fn environment() -> Result<Environment> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ready) = environment.as_ref() {
        return Ok(ready.clone());
    }
    let path = find(&Places::of_this_process())?;
    let ready = load(&path)?;
    tracing::debug!(path = %crate::error::shown(&path), "loaded ONNX Runtime");
    Ok(environment.insert(ready).clone())
}

fn load(path: &Path) -> Result<Environment> {
    let builder = guarded(|| Ok::<_, String>(ort::init_from(path)))?
        .map_err(|error| model_error(load_message(&error)).at(path).hint(HINT))?;
    let silent = |_: LogLevel, _: &str, _: &str, _: &str, message: &str| {
        // Its warnings about this machine's CPU would otherwise be printed.
        tracing::debug!(message, "ONNX Runtime");
    };
    guarded(|| builder.with_telemetry(false).with_logger(std::sync::Arc::new(silent)).build())
        .map_err(|error| error.at(path))
}

fn load_message(error: &LoadDynamicError) -> String {
    match error {
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!("this ONNX Runtime is {version_str}, at least 1.{} is needed", ort::MINOR_VERSION)
        }
        LoadDynamicError::Dlopen { .. } => "ONNX Runtime cannot be loaded from this file".to_owned(),
        _ => "this is not a library of ONNX Runtime".to_owned(),
    }
}

/// Where to look, in this order.
struct Places {
    /// The environment variables that name the library or its folder.
    named: [(&'static str, Option<OsString>); 2],
    folders: Vec<PathBuf>,
}

impl Places {
    fn of_this_process() -> Self {
        let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        let data = env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(env::home_dir()?.join(".local/share")));
        let named = ["MEMENTO_ORT_DYLIB", "ORT_DYLIB_PATH"].map(|name| (name, env::var_os(name)));
        Self { named, folders: beside.into_iter().chain(data.map(|data| data.join("memento/lib"))).collect() }
    }
}

fn find(places: &Places) -> Result<PathBuf> {
    for (variable, value) in &places.named {
        let Some(path) = value.as_ref().filter(|value| !value.is_empty()).map(PathBuf::from) else {
            continue;
        };
        // What was named must be there: another library in its stead would be a surprise.
        let found =
            if path.is_dir() { library_in(&path) } else { Some(path.clone()).filter(|p| p.is_file()) };
        return found.and_then(|found| std::path::absolute(found).ok()).ok_or_else(|| {
            model_error(format!("ONNX Runtime is not there, where {variable} points")).at(&path).hint(HINT)
        });
    }
    places.folders.iter().find_map(|folder| library_in(folder)).ok_or_else(not_found)
}

fn not_found() -> Error {
    model_error("ONNX Runtime is not installed: it is needed for every model but the built-in one").hint(HINT)
}

/// The library of a folder: the one without a version in its name, else the one with the highest.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(LIBRARY);
    if plain.is_file() {
        return Some(plain);
    }
    let names = folder.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((version(&name)?, name))).max()?;
    Some(folder.join(newest.1)).filter(|path| path.is_file())
}

/// The version in `libonnxruntime.so.1.31.1` or `libonnxruntime.1.31.1.dylib`.
fn version(name: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix("libonnxruntime.")?;
    let digits = rest.strip_prefix("so.").or_else(|| rest.strip_suffix(".dylib"))?;
    digits.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::fs::write;

    fn places(named: [Option<&Path>; 2], folders: &[&Path]) -> Places {
        let [first, second] = named.map(|path| path.map(|path| path.as_os_str().to_owned()));
        Places {
            named: [("MEMENTO_ORT_DYLIB", first), ("ORT_DYLIB_PATH", second)],
            folders: folders.iter().map(|folder| folder.to_path_buf()).collect(),
        }
    }

    #[test]
    fn the_library_is_looked_for_in_order() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| root.path().join(name));
        for folder in [&a, &b, &c, &d] {
            std::fs::create_dir(folder).expect("a folder");
            write(folder.join(LIBRARY), b"").expect("written");
        }
        let file = a.join(LIBRARY);
        let found = |named, folders: &[&Path]| find(&places(named, folders)).expect("found");
        assert_eq!(found([Some(&file), Some(&b)], &[&c, &d]), file, "a file");
        assert_eq!(found([Some(&a), Some(&b)], &[&c, &d]), file, "a folder");
        assert_eq!(found([None, Some(&b)], &[&c, &d]), b.join(LIBRARY));
        assert_eq!(found([Some(Path::new("")), None], &[&c, &d]), c.join(LIBRARY));
        std::fs::remove_file(c.join(LIBRARY)).expect("removed");
        assert_eq!(found([None, None], &[&c, &d]), d.join(LIBRARY));
        assert_eq!(found([None, None], &[&root.path().join("missing"), &d]), d.join(LIBRARY));
    }

    #[test]
    fn the_highest_version_of_a_folder_is_taken() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime.so.x", "other.so.9"]
        {
            write(root.path().join(name), b"").expect("written");
        }
        assert_eq!(library_in(root.path()), Some(root.path().join("libonnxruntime.so.1.31.1")));
        assert_eq!(version("libonnxruntime.1.24.0.dylib"), Some(vec![1, 24, 0]));
        assert_eq!(version("libonnxruntime_providers.so.1"), None);
    }

    #[test]
    fn a_library_that_is_named_and_missing_is_an_error_not_a_search() {
        let root = tempfile::tempdir().expect("a temporary folder");
        write(root.path().join(LIBRARY), b"").expect("written");
        let error =
            find(&places([Some(Path::new("/no/such/file")), None], &[root.path()])).expect_err("not there");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains("MEMENTO_ORT_DYLIB"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("pip install onnxruntime")));
    }

    #[test]
    fn no_library_anywhere_is_a_plain_error_with_the_fix() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = find(&places([None, None], &[root.path()])).expect_err("not there");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("MEMENTO_ORT_DYLIB")));
    }

    #[test]
    fn a_file_that_is_no_library_is_a_plain_error() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let path = root.path().join(LIBRARY);
        write(&path, b"not a library").expect("written");
        let error = load(&path).expect_err("no library");
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.hint_text().is_some());
    }
}
