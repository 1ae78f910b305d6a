use super::*;

/// Numbers by chance, the same at every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    fn of(&mut self, letters: &str, len: usize) -> String {
        let letters: Vec<char> = letters.chars().collect();
        (0..len).map(|_| letters[self.next(letters.len())]).collect()
    }

    fn one<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.next(all.len())]
    }
}

const HEX: &str = "0123456789abcdef";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const WORDS: &[&str] = &["river", "Copper", "lantern", "Meadow", "saddle", "Quartz", "velvet", "Harbor"];

/// A secret by the published form of a service, and whether it is told by that form alone.
fn secret(chance: &mut Chance) -> (String, bool) {
    let c = chance;
    match c.next(30) {
        0 => (format!("AKIA{}", c.of(UPPER, 16)), true),
        1 => (format!("ghp_{}", c.of(ALNUM, 36)), true),
        2 => (format!("github_pat_{}_{}", c.of(ALNUM, 22), c.of(ALNUM, 59)), true),
        3 => (format!("glpat-{}", c.of(URL, 20)), true),
        4 => {
            let numbers = (c.of("123456789", 12), c.of("123456789", 12));
            (format!("xoxb-{}-{}-{}", numbers.0, numbers.1, c.of(ALNUM, 24)), true)
        }
        5 => (format!("sk-{}", c.of(ALNUM, 48)), true),
        6 => (format!("sk-proj-{}", c.of(URL, 120)), true),
        7 => (format!("sk-ant-api03-{}AA", c.of(URL, 93)), true),
        8 => (format!("sk_live_{}", c.of(ALNUM, 24)), true),
        9 => (format!("AIza{}", c.of(URL, 35)), true),
        10 => (format!("npm_{}", c.of(ALNUM, 36)), true),
        11 => (format!("pypi-AgEIcHlwaS5vcmc{}", c.of(URL, 120)), true),
        12 => (format!("cio{}", c.of(ALNUM, 32)), true),
        13 => (format!("hf_{}", c.of(ALNUM, 34)), true),
        14 => (format!("SG.{}.{}", c.of(URL, 22), c.of(URL, 43)), true),
        15 => (format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI{}.{}", c.of(ALNUM, 24), c.of(URL, 43)), true),
        16 => (format!("dop_v1_{}", c.of(HEX, 64)), true),
        17 => (format!("shpat_{}", c.of(HEX, 32)), true),
        18 => (format!("hvs.{}", c.of(URL, 90)), true),
        19 => {
            let lines: Vec<String> = (0..6).map(|_| c.of(BASE64, 64)).collect();
            let kind = c.one(&["RSA ", "EC ", "OPENSSH ", ""]);
            (
                format!(
                    "-----BEGIN {kind}PRIVATE KEY-----\n{}\n-----END {kind}PRIVATE KEY-----",
                    lines.join("\n")
                ),
                true,
            )
        }
        20 => {
            let scheme = c.one(&["postgres", "mysql", "redis", "amqp", "mongodb+srv", "https"]);
            (format!("{scheme}://app:{}@db.internal:5432/prod", c.of(ALNUM, 16)), true)
        }
        21 => (
            format!(
                "https://hooks.slack.com/services/T{}/B{}/{}",
                c.of(UPPER, 8),
                c.of(UPPER, 8),
                c.of(ALNUM, 24)
            ),
            true,
        ),
        22 => (format!("Authorization: Bearer {}", c.of(URL, 40)), true),
        23 => (format!("{}:AA{}", c.of("123456789", 9), c.of(URL, 33)), true),
        24 => (c.of(BASE64, 40), false),
        25 => (c.of(HEX, 40), false),
        26 => (c.of(ALNUM, 32), false),
        27 => (format!("{}{}!", c.one(WORDS), c.of("0123456789", 3)), false),
        28 => (c.of("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789!#%^*+", 14), false),
        _ => (format!("{}{}{}", c.one(WORDS), c.of("23456789", 2), c.one(WORDS)), false),
    }
}

/// The secret where secrets stand.
fn in_context(chance: &mut Chance, secret: &str, is_told: bool) -> String {
    let is_short = secret.len() < 24;
    let free = [
        "use {} from now on",
        "I pasted {} into the form.",
        "{}",
        "the log has `{}` in it",
        "key: {}\nnext line",
        "export X={} && run",
    ];
    let password = [
        "password: {}",
        "DB_PASSWORD={}",
        "{\"user\": \"app\", \"password\": \"{}\"}",
        "the password is {}",
        "The password for the staging box is {}, do not share it.",
        "mysql --password={} -u root",
        "pwd = '{}'",
        "machine git.example.org login bot password {}",
        "Server=db;User Id=sa;Password={};",
        "admin_password: \"{}\"",
        "set the passphrase to {}",
        "--password {} --host x",
    ];
    let token = [
        "API_KEY={}",
        "api_key: {}",
        "secret = \"{}\"",
        "export AUTH_TOKEN={}",
        "{\"client_secret\":\"{}\"}",
        "the API key is {}",
        "aws_secret_access_key = {}",
        "config.token = '{}';",
        "curl -H 'X-Api-Key: {}' https://x.io",
        "https://x.io/v1?access_token={}&page=2",
        "AccountName=x;AccountKey={};EndpointSuffix=y",
        "secret_key => '{}'",
    ];
    let template = if is_told {
        chance.one(&free)
    } else if is_short {
        chance.one(&password)
    } else {
        chance.one(&token)
    };
    template.replace("{}", secret)
}

/// A text without a secret that looks like one.
fn harmless(chance: &mut Chance) -> String {
    let c = chance;
    let uuid =
        format!("{}-{}-4{}-a{}-{}", c.of(HEX, 8), c.of(HEX, 4), c.of(HEX, 3), c.of(HEX, 3), c.of(HEX, 12));
    match c.next(40) {
        0 => format!("commit {}", c.of(HEX, 40)),
        1 => format!("sha256: {}", c.of(HEX, 64)),
        2 => format!("checksum = \"{}\"", c.of(HEX, 64)),
        3 => format!("the session {uuid} ended"),
        4 => format!("{{\"id\": \"{uuid}\", \"name\": \"build\"}}"),
        5 => format!("<img src=\"data:image/png;base64,iVBORw0KGgo{}\"/>", c.of(BASE64, 400)),
        6 => format!("integrity sha512-{}==", c.of(BASE64, 86)),
        7 => format!("etag: W/\"{}\"", c.of(HEX, 32)),
        8 => format!("docker pull app@sha256:{}", c.of(HEX, 64)),
        9 => format!("let token = tokens.next().ok_or({})?;", c.next(100)),
        10 => "if password.is_empty() { return Err(Error::MissingPassword); }".to_owned(),
        11 => "password: Option<String>,".to_owned(),
        12 => "the password is required and must have at least 12 characters".to_owned(),
        13 => "password = os.environ[\"DB_PASSWORD\"]".to_owned(),
        14 => "api_key: ${API_KEY}".to_owned(),
        15 => "API_KEY=your-api-key-here-1234".to_owned(),
        16 => "secret: {{ .Values.db.secretName }}".to_owned(),
        17 => "const token = await getAccessToken(user.id, { force: true });".to_owned(),
        18 => format!("max_tokens: {}, token_count = {}", c.next(9000), c.next(100_000)),
        19 => "postgres://user:password@localhost:5432/db".to_owned(),
        20 => "git clone https://github.com/rust-lang/rust.git && ssh git@github.com:org/repo.git".to_owned(),
        21 => "sk-learn and sk-image are not installed; see task-based-long-names-of-things-2024".to_owned(),
        22 => format!("we use {} as the id, 01JZ3V5N8M4Q2R7T9W1X3Y5Z7A is a ULID", c.of(UPPER, 26)),
        23 => "a file that begins with -----BEGIN PRIVATE KEY----- must never be committed to the repository"
            .to_owned(),
        24 => format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", c.of(BASE64, 64)),
        25 => format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", c.of(BASE64, 64)),
        26 => format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{} anna@laptop", c.of(BASE64, 43)),
        27 => format!("Cargo.lock: checksum of serde is {}", c.of(HEX, 64)),
        28 => "the token is expired, refresh it with `auth login`".to_owned(),
        29 => "Bearer tokens are sent in the Authorization header; Basic authentication is off".to_owned(),
        30 => "password_hash: $2b$12$abcdefghijklmnopqrstuv".to_owned(),
        31 => format!("next_page_token: \"{}\"", c.of(URL, 24)),
        32 => format!("public_key = \"{}\"", c.of(BASE64, 44)),
        33 => format!("trace 00-{}-{}-01", c.of(HEX, 32), c.of(HEX, 16)),
        34 => "self.password = password; assert_eq!(token, expected_token_2);".to_owned(),
        35 => "PASSWORD=changeme TOKEN=<token> SECRET=xxxxxxxxxxxxxxxxxxxx KEY=****************".to_owned(),
        36 => format!("cache_key: {}, primary key = {}", c.of(HEX, 32), c.next(10_000)),
        37 => "mount the secret: /run/secrets/db_password_2024 and password_file: ./db.pass1.txt".to_owned(),
        38 => format!("const HASH: &str = \"{}\";", c.of(HEX, 64)),
        _ => format!(
            "bytes {} to {} of build-{}-{}.tar.gz",
            c.next(900),
            c.next(9_000_000),
            c.of(HEX, 7),
            c.next(50)
        ),
    }
}

#[test]
fn secrets_are_found_and_hashes_identifiers_images_and_code_are_not() {
    let mut chance = Chance(0x5eed_0009);
    let (mut missed, mut wrong) = (Vec::new(), Vec::new());
    for _ in 0..3000 {
        let (secret, is_told) = secret(&mut chance);
        let text = in_context(&mut chance, &secret, is_told);
        let masked = mask(&text);
        // What carries the secret: the whole of it, or for an address and a header the part behind the mark.
        let core = secret.rsplit([' ', '\n']).next().unwrap_or_default();
        let core = core.split_once("app:").map_or(core, |(_, rest)| rest.split('@').next().unwrap_or(rest));
        let is_key = secret.starts_with("-----") && masked.contains("END");
        if masked.contains(core) || is_key {
            missed.push(text);
        }
    }
    for _ in 0..3000 {
        let text = harmless(&mut chance);
        if !find(&text).is_empty() {
            wrong.push(text);
        }
    }
    let recall = 1.0 - missed.len() as f64 / 3000.0;
    let alarms = wrong.len() as f64 / 3000.0;
    missed.truncate(12);
    wrong.truncate(12);
    println!("recall {recall:.4}, false alarms {alarms:.4}");
    assert!(recall >= 0.95, "recall {recall}: {missed:#?}");
    assert!(alarms < 0.01, "false alarms {alarms}: {wrong:#?}");
}

#[test]
fn a_mask_names_the_kind_and_leaves_the_rest() {
    let token = format!("ghp_{}", "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6");
    assert_eq!(mask(&format!("push with {token}, then stop")), "push with [secret:github-token], then stop");
    assert_eq!(mask("the password is Tr0ub4dor&3."), "the password is [secret:password].");
    assert_eq!(mask("postgres://app:k2Jx8Qw1@db/prod"), "postgres://app:[secret:url-password]@db/prod");
    assert_eq!(mask("nothing here"), "nothing here");
}

#[test]
fn a_masked_text_has_no_secret_any_more() {
    let mut chance = Chance(77);
    for _ in 0..500 {
        let (secret, is_told) = secret(&mut chance);
        let text = in_context(&mut chance, &secret, is_told);
        let once = mask(&text).into_owned();
        assert!(find(&once).is_empty(), "{once}");
    }
}

#[test]
fn metadata_is_looked_at_with_its_keys() {
    let metadata = serde_json::json!({"db": {"password": "k2Jx8Qw1zz"}, "n": 1, "list": ["fine"]});
    let Value::Object(metadata) = metadata else { panic!("an object") };
    assert_eq!(kinds("fine", &metadata), ["password"]);
    assert!(kinds("fine", &Map::new()).is_empty());
}

#[test]
fn no_text_makes_it_panic_or_gives_a_range_within_a_character() {
    let pieces = [
        "é",
        "password",
        ":",
        " ",
        "=",
        "“",
        "”",
        "-----BEGIN ",
        "PRIVATE KEY",
        "://",
        "@",
        "eyJ",
        ".",
        "Bearer ",
        "\n",
        "日本",
        "\"",
        "bot",
        ":AA",
        "1234567890",
        "is ",
        "--",
        "ghp_",
        "x7Kq2Lm9",
    ];
    let mut chance = Chance(3);
    for _ in 0..20_000 {
        let text: String = (0..chance.next(14)).map(|_| pieces[chance.next(pieces.len())]).collect();
        for secret in find(&text) {
            assert!(text.get(secret.range.clone()).is_some_and(|part| !part.is_empty()), "{text}");
        }
    }
}
