//! What failed is written down, told to a command, and told on GitHub: against a double of GitHub on loopback.
//!
//! The double keeps issues, comments and a board, so that the tests look at what is there in the end; single answers of
//! it can be replaced by bad ones.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use memento_kv::ErrorKind;
use memento_kv::failure::{self, Deed, Failure, Handled, Kind, Lost, Options, SentWhat, Token};
use memento_kv::home::{Home, HomeInputs, locate};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const NOW_MS: i64 = 1_771_329_600_000; // 2026-02-17T12:00:00Z
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const TOKEN: &str = "ghp_CanaryOfATokenThatNobodyMayEverSee01";

/// What is on the double.
#[derive(Default)]
struct World {
    issues: Vec<Issue>,
    /// Ids of issues on the board.
    board: Vec<String>,
    has_board: bool,
    /// Logins that may not be assigned.
    strangers: Vec<&'static str>,
    /// Method and path of each request.
    calls: Vec<String>,
    authorizations: Vec<String>,
    /// What requests whose method and path begin so are answered, instead of what they ask for.
    answers: Vec<(&'static str, ResponseTemplate)>,
    /// The same, after what they ask for was done.
    lost_answers: Vec<(&'static str, ResponseTemplate)>,
}

#[derive(Clone, Default)]
struct Issue {
    title: String,
    body: String,
    labels: Vec<String>,
    assignees: Vec<String>,
    is_open: bool,
    comments: Vec<String>,
}

struct GitHub {
    world: Arc<Mutex<World>>,
    url: String,
    // Dropped before its runtime.
    _server: MockServer,
    _runtime: Runtime,
}

impl GitHub {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let world = Arc::new(Mutex::new(World::default()));
        let within = Arc::clone(&world);
        let server = runtime.block_on(async {
            let server = MockServer::start().await;
            let answer = move |request: &Request| answer(&mut within.lock().expect("whole"), request);
            Mock::given(any()).respond_with(answer).mount(&server).await;
            server
        });
        Self { world, url: server.uri(), _server: server, _runtime: runtime }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("whole")
    }

    /// Requests that begin so get this answer from now on.
    fn answers(&self, call: &'static str, answer: ResponseTemplate) {
        self.world().answers.push((call, answer));
    }

    fn recovers(&self) {
        self.world().answers.clear();
        self.world().lost_answers.clear();
    }

    fn calls(&self, prefix: &str) -> usize {
        self.world().calls.iter().filter(|call| call.starts_with(prefix)).count()
    }
}

fn answer(world: &mut World, request: &Request) -> ResponseTemplate {
    let call = format!("{} {}", request.method, request.url.path());
    world.calls.push(call.clone());
    let authorization =
        request.headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
    world.authorizations.extend(authorization);
    if let Some((_, answer)) = world.answers.iter().find(|(prefix, _)| call.starts_with(prefix)) {
        return answer.clone();
    }
    let done = do_it(world, &call, serde_json::from_slice(&request.body).unwrap_or_default());
    match world.lost_answers.iter().find(|(prefix, _)| call.starts_with(prefix)) {
        Some((_, answer)) => answer.clone(),
        None => done,
    }
}

fn do_it(world: &mut World, call: &str, body: Value) -> ResponseTemplate {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().map_or(Vec::new(), |list| list.iter().map(text).collect());
    let (method, path) = call.split_once(' ').expect("two words");
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["repos", "ann", "agent", "issues"]) => {
            let all: Vec<Value> = (1..=world.issues.len()).rev().map(|number| shown(world, number)).collect();
            ResponseTemplate::new(200).set_body_json(all)
        }
        ("POST", ["repos", "ann", "agent", "issues"]) => {
            let assignees: Vec<String> = texts(&body["assignees"]);
            if assignees.iter().any(|login| world.strangers.contains(&login.as_str())) {
                return ResponseTemplate::new(422).set_body_json(json!({ "message": "Validation Failed" }));
            }
            world.issues.push(Issue {
                title: text(&body["title"]),
                body: text(&body["body"]),
                labels: texts(&body["labels"]),
                assignees,
                is_open: true,
                comments: Vec::new(),
            });
            ResponseTemplate::new(201).set_body_json(shown(world, world.issues.len()))
        }
        ("POST", ["repos", "ann", "agent", "issues", number, "comments"]) => {
            let number: usize = number.parse().expect("a number");
            world.issues[number - 1].comments.push(text(&body["body"]));
            ResponseTemplate::new(201).set_body_json(json!({ "id": 1 }))
        }
        ("PATCH", ["repos", "ann", "agent", "issues", number]) => {
            let number: usize = number.parse().expect("a number");
            world.issues[number - 1].is_open = body["state"] == "open";
            ResponseTemplate::new(200).set_body_json(shown(world, number))
        }
        ("POST", ["graphql"]) => {
            let data = if body["query"].as_str().is_some_and(|query| query.starts_with("query")) {
                let id = (world.has_board && body["variables"] == json!({ "owner": "ann", "number": 7 }))
                    .then(|| json!({ "id": "PVT_7" }));
                json!({ "repositoryOwner": { "projectV2": id } })
            } else {
                assert_eq!(body["variables"]["project"], "PVT_7");
                world.board.push(text(&body["variables"]["issue"]));
                json!({ "addProjectV2ItemById": { "item": { "id": "PVTI_1" } } })
            };
            ResponseTemplate::new(200).set_body_json(json!({ "data": data }))
        }
        _ => ResponseTemplate::new(404).set_body_json(json!({ "message": "Not Found" })),
    }
}

fn shown(world: &World, number: usize) -> Value {
    let issue = &world.issues[number - 1];
    let state = if issue.is_open { "open" } else { "closed" };
    json!({ "number": number, "node_id": format!("I_{number}"), "state": state, "body": issue.body })
}

/// A home with a configuration, in a temporary folder.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(config: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        private_folder(&place.home_path());
        place.configure(config);
        place
    }

    /// A home whose failures are told to this double.
    fn told_to(url: &str, more: &str) -> Self {
        Self::new(&format!("github:\n  enabled: true\n  repo: ann/agent\n  api_url: {url}\n{more}"))
    }

    fn home_path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn configure(&self, config: &str) {
        let path = self.home_path().join("config.yaml");
        fs::write(&path, config).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
    }

    fn home(&self) -> Home {
        locate(&HomeInputs {
            argument: Some(self.home_path()),
            env: &|_| None,
            current_dir: None,
            user_home: Some(self.folder.path().to_owned()),
            system_config: self.folder.path().join("none.yaml"),
        })
        .expect("a home")
    }

    fn fails(&self, now_ms: i64) -> Handled {
        failure::handle_with(&self.home(), now_ms, &[failed()], &options())
    }

    fn is_healthy(&self, now_ms: i64) -> Handled {
        failure::healthy_with(&self.home(), now_ms, &options())
    }
}

fn private_folder(path: &Path) {
    fs::create_dir_all(path).expect("folders");
    fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("chmod");
}

fn options() -> Options {
    Options::default()
        .token(Token::new(TOKEN))
        .timeout(Duration::from_secs(30))
        .retries(2, Duration::ZERO)
        .alert_timeout(Duration::from_secs(60))
}

fn failed() -> Failure {
    Failure::new(Kind::SegmentDamaged, NOW_MS)
        .file("store/seg/0000000007.mseg")
        .file("backups/Canary of a name.db")
        .seq(41)
        .done(Deed::Quarantined, 1)
        .lost(Lost { records: 2, seqs: Some((42, 43)), window_ms: None })
}

fn what(handled: &Handled) -> Vec<SentWhat> {
    handled.sent.iter().map(|sent| sent.what).collect()
}

/// The one problem.
fn problem(handled: &Handled) -> (ErrorKind, String, String) {
    assert_eq!(handled.problems.len(), 1, "{:?}", handled.problems);
    let error = &handled.problems[0];
    (error.kind(), error.to_string(), error.hint_text().unwrap_or_default().to_owned())
}

#[test]
fn a_failure_becomes_an_issue_with_labels_assignees_and_a_body_of_facts() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "  assignees: [bob, rita]\n");
    let handled = place.fails(NOW_MS);
    assert!(handled.problems.is_empty(), "{:?}", handled.problems);
    assert_eq!((handled.logged, handled.queued), (1, 0));
    assert_eq!(what(&handled), [SentWhat::Opened]);
    let world = github.world();
    let issue = &world.issues[0];
    assert_eq!(issue.title, "Memento Failure: segment_damaged at 2026-02-17T12:00Z");
    assert_eq!(issue.labels, ["critical", "bug", "memory-system"]);
    assert_eq!(issue.assignees, ["bob", "rita"]);
    for part in [
        "sequences 42 to 43",
        "quarantined (1)",
        "0000000007.mseg, backup",
        "damaged segment_damaged seq=41",
        "- [ ]",
    ] {
        assert!(issue.body.contains(part), "{part} in\n{}", issue.body);
    }
    assert_eq!(world.authorizations, [format!("Bearer {TOKEN}"), format!("Bearer {TOKEN}")]);
    let log = fs::read_to_string(place.home_path().join("logs/failures.log")).expect("a log");
    assert!(log.contains("] Issue #1: segment_damaged (opened)\n"), "{log}");
}

#[test]
fn the_same_failure_is_a_comment_a_day_and_a_healthy_run_closes_the_issue() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    place.fails(NOW_MS);
    for hour in 1..=25 {
        let handled = place.fails(NOW_MS + hour * HOUR_MS);
        let expected: &[SentWhat] = if hour == 24 { &[SentWhat::Commented] } else { &[] };
        assert_eq!(what(&handled), expected, "hour {hour}");
    }
    assert_eq!(what(&place.is_healthy(NOW_MS + 26 * HOUR_MS)), [SentWhat::Commented, SentWhat::Closed]);
    assert_eq!(what(&place.is_healthy(NOW_MS + 27 * HOUR_MS)), []);
    let world = github.world();
    assert_eq!(world.issues.len(), 1);
    assert_eq!((world.issues[0].is_open, world.issues[0].comments.len()), (false, 2));
    assert!(world.issues[0].comments[0].contains("25 times"), "{}", world.issues[0].comments[0]);
    assert!(world.issues[0].comments[1].contains("found nothing wrong"), "{}", world.issues[0].comments[1]);
}

#[test]
fn a_failure_that_comes_back_reopens_its_issue() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    place.fails(NOW_MS);
    place.is_healthy(NOW_MS + HOUR_MS);
    assert_eq!(what(&place.fails(NOW_MS + 2 * DAY_MS)), [SentWhat::Reopened, SentWhat::Commented]);
    assert_eq!(github.world().issues.len(), 1);
    assert!(github.world().issues[0].is_open);
}

#[test]
fn nothing_is_sent_unless_the_user_opted_in_named_a_repository_and_gave_a_token() {
    let github = GitHub::new();
    let place = Place::new(&format!("github:\n  repo: ann/agent\n  api_url: {}\n", github.url));
    assert!(place.fails(NOW_MS).problems.is_empty(), "nobody asked for it");
    place.configure(&format!("github:\n  enabled: true\n  api_url: {}\n", github.url));
    let (kind, message, hint) = problem(&place.fails(NOW_MS));
    assert!(
        kind == ErrorKind::Config && message.contains("github.repo") && hint.contains("queued"),
        "{message}"
    );
    place.configure(&format!("github:\n  enabled: true\n  repo: ann/agent\n  api_url: {}\n", github.url));
    let handled = failure::handle_with(&place.home(), NOW_MS, &[failed()], &options().token(None));
    let (kind, message, hint) = problem(&handled);
    assert!(
        kind == ErrorKind::Config && message.contains("GITHUB_TOKEN") && hint.contains("queued"),
        "{message}"
    );
    assert_eq!(handled.queued, 1);
    assert_eq!(github.calls(""), 0);
    assert_eq!(what(&place.is_healthy(NOW_MS)), [SentWhat::Opened, SentWhat::Commented, SentWhat::Closed]);
}

#[test]
fn a_project_cannot_have_anything_sent() {
    let github = GitHub::new();
    let place = Place::new("");
    let project = place.folder.path().join("project/.memento");
    private_folder(&project);
    fs::write(
        project.join("config.yaml"),
        format!(
            "health:\n  on_failure: touch {}\ngithub:\n  enabled: true\n  repo: ann/agent\n  api_url: {}\n",
            place.folder.path().join("ran").display(),
            github.url
        ),
    )
    .expect("written");
    fs::set_permissions(project.join("config.yaml"), PermissionsExt::from_mode(0o600)).expect("chmod");
    let home = locate(&HomeInputs {
        argument: Some(project),
        env: &|_| None,
        current_dir: None,
        user_home: Some(place.folder.path().to_owned()),
        system_config: place.folder.path().join("none.yaml"),
    })
    .expect("a home");
    assert_eq!(home.config.remarks().len(), 4);
    let handled = failure::handle_with(&home, NOW_MS, &[failed()], &options());
    assert_eq!((handled.logged, handled.alerted, handled.sent.len()), (1, false, 0));
    assert_eq!(github.calls(""), 0);
    assert!(!place.folder.path().join("ran").exists());
}

#[test]
fn every_refusal_is_told_with_a_hint_and_the_report_is_sent_later() {
    for (status, kind, part) in [
        (401, ErrorKind::Permission, "does not know the token"),
        (403, ErrorKind::Permission, "may not write issues of ann/agent"),
        (404, ErrorKind::NotFound, "there is no repository ann/agent"),
        (410, ErrorKind::Refused, "issues are turned off"),
        (422, ErrorKind::Refused, "does not take the report"),
        (301, ErrorKind::NotFound, "has another name"),
        (500, ErrorKind::Io, "a problem of its own (500)"),
        (503, ErrorKind::Io, "a problem of its own (503)"),
    ] {
        let github = GitHub::new();
        let place = Place::told_to(&github.url, "");
        let body = json!({ "message": format!("the server repeats {TOKEN}") });
        github.answers("POST /repos/ann/agent/issues", ResponseTemplate::new(status).set_body_json(body));
        let handled = place.fails(NOW_MS);
        let (found, message, hint) = problem(&handled);
        assert_eq!(found, kind, "{status}: {message}");
        assert!(message.contains(part) && hint.contains("queued"), "{status}: {message}; {hint}");
        assert!(!format!("{handled:?} {hint}").contains("Canary"), "{status}");
        assert_eq!((handled.queued, github.world().issues.len()), (1, 0), "{status}");
        let tries = if status >= 500 { 2 } else { 1 };
        assert_eq!(github.calls("POST "), tries, "{status}: only what may pass is tried again");
        github.recovers();
        let handled = failure::send(&place.home(), NOW_MS + HOUR_MS, &options());
        assert_eq!((what(&handled), handled.queued), (vec![SentWhat::Opened], 0), "{status}");
    }
}

#[test]
fn github_is_left_alone_for_as_long_as_it_asks() {
    for limited in [
        ResponseTemplate::new(403).insert_header("retry-after", "1800"),
        ResponseTemplate::new(403)
            .insert_header("x-ratelimit-remaining", "0")
            .insert_header("x-ratelimit-reset", "99999999999"),
        ResponseTemplate::new(429),
    ] {
        let github = GitHub::new();
        let place = Place::told_to(&github.url, "");
        github.answers("GET ", limited);
        let (kind, message, _) = problem(&place.fails(NOW_MS));
        assert!(kind == ErrorKind::Busy && message.contains("asks to wait"), "{message}");
        assert_eq!(github.calls(""), 1, "no second try");
        github.recovers();
        let (kind, message, _) = problem(&place.is_healthy(NOW_MS + 1000));
        assert!(kind == ErrorKind::Busy && message.contains("not to be called"), "{message}");
        assert_eq!(github.calls(""), 1, "it was not called");
        let handled = place.is_healthy(NOW_MS + 2 * HOUR_MS);
        assert_eq!(what(&handled), [SentWhat::Opened, SentWhat::Commented, SentWhat::Closed]);
    }
}

#[test]
fn a_server_that_is_slow_gone_or_cut_off_costs_no_report() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    github.answers("GET ", ResponseTemplate::new(200).set_delay(Duration::from_secs(60)));
    let quick = options().timeout(Duration::from_millis(100));
    let (kind, message, _) = problem(&failure::handle_with(&place.home(), NOW_MS, &[failed()], &quick));
    assert!(kind == ErrorKind::Timeout && message.contains("does not answer in time"), "{message}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let cut = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a call");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"num");
        }
    });
    place.configure(&format!("github:\n  enabled: true\n  repo: ann/agent\n  api_url: {url}\n"));
    let (kind, message, hint) = problem(&place.fails(NOW_MS));
    assert!(kind == ErrorKind::Io && hint.contains("queued"), "cut off: {message}");
    cut.join().expect("two calls, and the port is closed");

    let (kind, message, hint) = problem(&place.fails(NOW_MS));
    assert!(
        kind == ErrorKind::Io && message.contains("cannot be reached") && hint.contains("queued"),
        "gone: {message}"
    );

    github.recovers();
    place.configure(&format!("github:\n  enabled: true\n  repo: ann/agent\n  api_url: {}\n", github.url));
    assert_eq!(what(&failure::send(&place.home(), NOW_MS, &options())), [SentWhat::Opened]);
    assert!(github.world().issues[0].body.contains("3 times"));
}

#[test]
fn answers_that_are_no_json_or_another_json_are_told() {
    for (call, body) in [
        ("GET ", "<html>Sign in to the hotel's network</html>"),
        ("GET ", "{\"number\":\"seven\"}"),
        ("POST /repos", "{}"),
        ("POST /repos", ""),
    ] {
        let github = GitHub::new();
        let place = Place::told_to(&github.url, "");
        github.answers(call, ResponseTemplate::new(200).set_body_string(body));
        let (kind, message, _) = problem(&place.fails(NOW_MS));
        assert!(kind == ErrorKind::Io && message.contains("not what GitHub sends"), "{body}: {message}");
        github.recovers();
        assert_eq!(what(&place.is_healthy(NOW_MS)).first(), Some(&SentWhat::Opened), "{body}");
    }
}

#[test]
fn an_issue_whose_answer_was_lost_is_found_again_and_not_opened_twice() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    github.world().lost_answers.push(("POST /repos/ann/agent/issues", ResponseTemplate::new(502)));
    let handled = place.fails(NOW_MS);
    assert_eq!(what(&handled), [SentWhat::Opened], "{:?}", handled.problems);
    assert_eq!((github.calls("POST "), github.world().issues.len()), (1, 1));
    // Another home's issue of the same failure is not taken for this one's.
    let other = Place::told_to(&github.url, "");
    other.fails(NOW_MS);
    assert_eq!(github.world().issues.len(), 1 + 1);
}

#[test]
fn a_comment_whose_answer_was_lost_is_not_said_twice() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    place.fails(NOW_MS);
    github.world().lost_answers.push(("POST /repos/ann/agent/issues/1/comments", ResponseTemplate::new(504)));
    place.fails(NOW_MS + DAY_MS);
    github.recovers();
    place.fails(NOW_MS + DAY_MS + HOUR_MS);
    assert_eq!(github.world().issues[0].comments.len(), 1);
}

#[test]
fn a_missing_board_never_stops_the_issue() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "  project: 7\n");
    let handled = place.fails(NOW_MS);
    assert_eq!(what(&handled), [SentWhat::Opened]);
    let (kind, message, hint) = problem(&handled);
    assert!(kind == ErrorKind::Refused && message.contains("no such board"), "{message}");
    assert!(hint.contains("github.project"), "{hint}");
    let asked = github.calls("POST /graphql");
    place.fails(NOW_MS + HOUR_MS);
    assert_eq!(github.calls("POST /graphql"), asked, "it is not asked for at every run");
    github.world().has_board = true;
    assert_eq!(what(&place.fails(NOW_MS + DAY_MS)), [SentWhat::Commented, SentWhat::OnBoard]);
    assert_eq!(github.world().board, ["I_1"]);
}

#[test]
fn boards_that_answer_with_errors_or_not_at_all_are_told() {
    let partly =
        json!({ "data": { "repositoryOwner": null }, "errors": [{ "message": "Could not resolve" }] });
    for answer in [
        ResponseTemplate::new(200).set_body_json(partly),
        ResponseTemplate::new(200).set_body_json(json!({ "errors": [{ "message": "insufficient scopes" }] })),
        ResponseTemplate::new(200).set_body_string("nonsense"),
        ResponseTemplate::new(401),
        ResponseTemplate::new(500),
    ] {
        let github = GitHub::new();
        let place = Place::told_to(&github.url, "  project: 7\n");
        github.answers("POST /graphql", answer);
        let handled = place.fails(NOW_MS);
        assert_eq!(what(&handled), [SentWhat::Opened]);
        assert!(problem(&handled).1.contains("not on the project board"), "{:?}", handled.problems);
    }
}

#[test]
fn boards_of_github_enterprise_are_asked_for_at_its_own_place() {
    let github = GitHub::new();
    github.world().has_board = true;
    let place = Place::told_to(&format!("{}/api/v3", github.url), "  project: 7\n");
    place.fails(NOW_MS);
    assert_eq!(github.world().calls, ["GET /api/v3/repos/ann/agent/issues"], "the double is no such host");
    let moved =
        ResponseTemplate::new(201).set_body_json(json!({ "number": 1, "node_id": "I_1", "state": "open" }));
    github.answers("GET /api/v3/", ResponseTemplate::new(200).set_body_json(json!([])));
    github.answers("POST /api/v3/repos", moved);
    place.fails(NOW_MS);
    assert_eq!(github.world().calls.last().map(String::as_str), Some("POST /api/graphql"));
}

#[test]
fn assignees_that_github_does_not_take_are_left_out() {
    let github = GitHub::new();
    github.world().strangers.push("rita");
    let place = Place::told_to(&github.url, "  assignees: [bob, rita]\n");
    let handled = place.fails(NOW_MS);
    assert_eq!(what(&handled), [SentWhat::Opened]);
    assert!(problem(&handled).2.contains("github.assignees"));
    assert!(github.world().issues[0].assignees.is_empty());
}

#[test]
fn no_more_issues_are_opened_a_day_than_the_user_wants() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "  issues_per_day: 1\n");
    let failures = [failed(), Failure::new(Kind::StoreGone, NOW_MS)];
    let handled = failure::handle_with(&place.home(), NOW_MS, &failures, &options());
    assert_eq!((what(&handled), handled.queued), (vec![SentWhat::Opened], 1));
    assert!(problem(&handled).2.contains("issues_per_day"));
    let handled = failure::send(&place.home(), NOW_MS + DAY_MS, &options());
    assert_eq!((what(&handled), handled.queued), (vec![SentWhat::Opened], 0));
}

#[test]
fn an_issue_that_was_deleted_is_opened_anew() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    place.fails(NOW_MS);
    github.answers("POST /repos/ann/agent/issues/1/comments", ResponseTemplate::new(410));
    assert!(problem(&place.fails(NOW_MS + DAY_MS)).1.contains("was deleted"));
    github.recovers();
    github.world().issues.clear();
    assert_eq!(what(&place.fails(NOW_MS + DAY_MS + HOUR_MS)), [SentWhat::Opened]);
}

#[test]
fn runs_at_the_same_time_open_one_issue() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| place.fails(NOW_MS));
        }
    });
    assert_eq!(github.world().issues.len(), 1);
    let log = fs::read_to_string(place.home_path().join("logs/failures.log")).expect("a log");
    assert_eq!(log.matches("damaged segment_damaged").count(), 4, "{log}");
}

#[test]
fn it_works_within_the_runtime_of_a_caller() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let handled = runtime.block_on(async { place.fails(NOW_MS) });
    assert_eq!(what(&handled), [SentWhat::Opened]);
}

#[test]
fn a_command_is_told_what_failed_and_is_given_no_token() {
    let place = Place::new("");
    let told = place.folder.path().join("told");
    place.configure(&format!("health:\n  on_failure: cat > {0}.json; env > {0}.env\n", told.display()));
    let handled = place.fails(NOW_MS);
    assert!(handled.alerted, "{:?}", handled.problems);
    let report: Value =
        serde_json::from_slice(&fs::read(told.with_extension("json")).expect("a report")).expect("JSON");
    assert_eq!(report["failures"][0]["kind"], "segment_damaged");
    assert_eq!(report["failures"][0]["files"], json!(["store/seg/0000000007.mseg", "backup"]));
    assert_eq!(report["failures"][0]["count"], 1);
    assert!(
        fs::read_to_string(told.with_extension("env")).expect("an environment").contains("MEMENTO_HOME=")
    );
}

#[test]
fn a_command_that_fails_costs_neither_the_log_nor_the_issue() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "health:\n  on_failure: [/no/such/program]\n");
    let handled = place.fails(NOW_MS);
    assert_eq!((handled.logged, handled.alerted, what(&handled)), (1, false, vec![SentWhat::Opened]));
    assert!(problem(&handled).1.contains("health.on_failure"));
}

#[test]
fn a_home_that_cannot_be_written_is_told_to_the_command_and_to_nobody_twice() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    let ran = place.folder.path().join("ran");
    place.configure(&format!(
        "health:\n  on_failure: touch {}\ngithub:\n  enabled: true\n  repo: ann/agent\n  api_url: {}\n",
        ran.display(),
        github.url
    ));
    // Root may write anywhere: what is no folder nobody can write into.
    fs::write(place.home_path().join("logs"), "not a folder").expect("written");
    let handled = place.fails(NOW_MS);
    assert_eq!((handled.logged, handled.alerted, github.calls("")), (0, true, 0));
    assert!(!handled.problems.is_empty());
}

/// Everything below a folder, as one text.
fn everything_below(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).expect("a list") {
        let path = entry.expect("an entry").path();
        all.push_str(&path.to_string_lossy());
        if path.is_dir() {
            all.push_str(&everything_below(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&fs::read(&path).expect("read")));
        }
    }
    all
}

#[test]
fn no_token_and_no_name_of_a_users_own_is_written_anywhere() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "  project: 7\n");
    github.answers("PATCH ", ResponseTemplate::new(401).set_body_string(TOKEN));
    let mut told = String::new();
    for hour in 0..30 {
        told.push_str(&format!("{:?}", place.fails(NOW_MS + hour * HOUR_MS)));
    }
    told.push_str(&format!("{:?}", place.is_healthy(NOW_MS + 2 * DAY_MS)));
    told.push_str(&format!("{:?}", failure::drafts(&place.home()).expect("drafts")));
    told.push_str(&everything_below(&place.home_path().join("logs")));
    let world = github.world();
    for issue in &world.issues {
        told.push_str(&format!("{} {} {:?}", issue.title, issue.body, issue.comments));
    }
    assert!(!told.contains("Canary"), "{told}");
    let home = place.home_path();
    let issue = &world.issues[0];
    assert!(!format!("{} {:?}", issue.body, issue.comments).contains(home.to_str().expect("a path")));
}

/// The built program, with nothing of this process's environment.
fn program(place: &Place) -> assert_cmd::Command {
    let mut program = assert_cmd::Command::cargo_bin("memento-kv").expect("the program");
    program.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", place.folder.path());
    program.arg("--home").arg(place.home_path());
    program
}

#[test]
fn the_program_lists_shows_and_sends() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "  assignees: [bob]\n");
    let none = program(&place).arg("failures").assert().success();
    assert!(String::from_utf8_lossy(&none.get_output().stdout).is_empty());
    // The report waits: there is no token.
    failure::handle_with(&place.home(), NOW_MS, &[failed()], &options().token(None));

    let listed = failure::list(&place.home(), 10).expect("a log");
    assert_eq!(listed[0].fingerprint, failed().fingerprint(), "nothing in it is taken for a secret");
    let listed = program(&place).args(["failures", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&listed.get_output().stdout).expect("JSON");
    assert_eq!((json[0]["class"].as_str(), json[0]["lost"].as_u64()), (Some("damaged"), Some(2)), "{json}");

    let shown = program(&place).args(["failures", "--show"]).assert().success();
    let shown = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    assert!(
        shown.contains("assignees: bob\nstate:     waits to be sent\n\n## Automatic Failure Report\n"),
        "{shown}"
    );
    assert_eq!(github.calls(""), 0, "nothing is sent by looking");

    let refused = program(&place).args(["failures", "--send"]).assert().code(6);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("GITHUB_TOKEN is not set"));

    let sent = program(&place).args(["failures", "--send"]).env("GITHUB_TOKEN", TOKEN).assert().success();
    assert_eq!(String::from_utf8_lossy(&sent.get_output().stdout), "ann/agent#1 opened\n");
    assert!(shown.contains(&github.world().issues[0].body.lines().nth(4).expect("a line").to_owned()));

    let again =
        program(&place).args(["failures", "--send", "--json"]).env("GITHUB_TOKEN", TOKEN).assert().success();
    let json: Value = serde_json::from_slice(&again.get_output().stdout).expect("JSON");
    assert_eq!(json, json!({ "sent": [], "queued": 0, "problems": [] }));
}

#[test]
fn the_program_says_what_github_refused_with_the_code_of_its_kind() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    failure::handle_with(&place.home(), NOW_MS, &[failed()], &options().token(None));
    for (status, code) in [(401, 3), (404, 1), (410, 7), (422, 7)] {
        github.recovers();
        github.answers("GET ", ResponseTemplate::new(status).set_body_string(TOKEN));
        let refused = program(&place)
            .args(["failures", "--send", "--json"])
            .env("GITHUB_TOKEN", TOKEN)
            .assert()
            .code(code);
        let output = refused.get_output();
        assert!(
            !String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).contains("Canary")
        );
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("queued")), "{error}");
    }
    assert!(github.world().issues.is_empty());
}

#[test]
fn a_health_run_tells_of_damage_and_the_next_one_that_it_is_over() {
    let github = GitHub::new();
    let place = Place::told_to(&github.url, "");
    let ran = place.folder.path().join("report.json");
    place.configure(&format!(
        "health:\n  on_failure: cat > {}\ngithub:\n  enabled: true\n  repo: ann/agent\n  api_url: {}\n",
        ran.display(),
        github.url
    ));
    program(&place).args(["remember", "Canary of a memory that nobody else may read"]).assert().success();
    let manifest = place.home_path().join("store/MANIFEST");
    let mut bytes = fs::read(&manifest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&manifest, bytes).expect("written");

    let run = program(&place).arg("health").env("GITHUB_TOKEN", TOKEN).assert();
    let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    let world = github.world();
    assert_eq!(world.issues.len(), 1, "{output} {:?}", run.get_output());
    assert!(
        world.issues[0].title.starts_with("Memento Failure: manifest_damaged at "),
        "{}",
        world.issues[0].title
    );
    assert!(world.issues[0].body.contains("health check passed after healing:"), "{}", world.issues[0].body);
    drop(world);
    let report: Value = serde_json::from_slice(&fs::read(&ran).expect("an alert")).expect("JSON");
    assert_eq!(report["failures"][0]["kind"], "manifest_damaged");

    program(&place).arg("health").env("GITHUB_TOKEN", TOKEN).assert().success();
    let world = github.world();
    assert_eq!((world.issues[0].is_open, world.issues[0].comments.len()), (false, 1));
    let told = format!("{:?} {report} {}", world.issues[0].comments, world.issues[0].body);
    assert!(
        !told.contains("Canary") && !told.contains(place.home_path().to_str().expect("a path")),
        "{told}"
    );
    assert!(!everything_below(&place.home_path().join("logs")).contains("Canary"));
}
