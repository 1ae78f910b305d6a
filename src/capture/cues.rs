//! What kinds of things are worth keeping, and the phrases that say so.
//!
//! A phrase is words with blanks between; `*` at the end of a word lets it go on, `|` parts words of which one stands
//! there, and `_` is any one word. Phrases match whole words: `pr` is not in `improve`, and `plan` is not in `explanation`.

use serde::Serialize;

/// What kind of thing a memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Something was decided, approved, rejected or put off.
    Decision,
    /// How something is built or is to be built: an RFC, an architecture, a proposal.
    Design,
    /// What is or was broken, why, and what mended it.
    Bug,
    /// What was measured.
    Benchmark,
    /// How somebody wants it.
    Preference,
    /// Something lasting about people, machines, dates and places.
    Fact,
    /// What somebody has promised or must do, often by a date.
    Commitment,
    /// How something is done.
    Procedure,
}

impl Kind {
    /// All kinds, in the order of the model's weights.
    pub const ALL: [Self; 8] = [
        Self::Decision,
        Self::Design,
        Self::Bug,
        Self::Benchmark,
        Self::Preference,
        Self::Fact,
        Self::Commitment,
        Self::Procedure,
    ];

    /// The name, which is also the tag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Design => "design",
            Self::Bug => "bug",
            Self::Benchmark => "benchmark",
            Self::Preference => "preference",
            Self::Fact => "fact",
            Self::Commitment => "commitment",
            Self::Procedure => "procedure",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What such a memory is worth at least.
    pub(crate) fn importance_min(self) -> f64 {
        match self {
            Self::Decision | Self::Design | Self::Bug => 0.80,
            Self::Preference | Self::Commitment => 0.75,
            Self::Benchmark | Self::Fact | Self::Procedure => 0.70,
        }
    }

    /// Strong phrases, each enough to say the kind, and weak ones, of which it takes two.
    pub(crate) fn phrases(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Decision => (
                &[
                    "decid*|agreed|chose|opted to|on|that|for|against|not|we|i|we're|upon", "decision is|was|made|stands|taken|final|:",
                    "we|i|we've|i've|they|team|everyone|all decided|agreed|chose|settled|opted|picked|approved|rejected", "approved by|the|rfc*|it|and|my|our|for",
                    "rejected by|the|it|rfc*|because|in|as|both", "signed off", "let's|lets|we'll|i'll|we|will|to go|stick|stay with",
                    "going with", "go|went with", "we're|we|i'm|are|team going|switching|moving|dropping|migrating|standardizing|adopting|deprecating|postponing|switched|moved|dropped|standardized to|from|off|on|away|support|the|all|over|entirely",
                    "no more", "instead of", "settled on", "deferred to|until|the|this|that|it", "put|putting off|on until|hold", "postponed to|until|the", "from now on",
                    "switching|switched|moving|moved|migrating|migrated|reverting _ to|from", "decided", "vetoed", "out of scope", "won't be supported|supporting|support|doing|adding|using", "is|are deferred|approved|rejected|postponed|cancelled|deprecated", "final call|decision|answer",
                ],
                &["instead", "over", "agreed", "decision*", "approved", "rejected", "drop*", "switch*", "deprecat*", "choose|chose|chosen", "adopt*", "rather than", "freeze", "starting", "we'll use", "use"],
            ),
            Self::Design => (
                &[
                    "rfc*|adr*", "architecture is|of|will|has|uses|:", "design is|doc|document|of|uses|:", "proposal is|to|for|:", "proposed|proposes design|change|schema|to|that|a",
                    "data model", "is|are split into", "consists of", "is built on|around|from|as", "layered on|as|into", "source of truth", "single|one writer|owner|source|connection",
                    "the schema|protocol|format|layout|interface|pipeline|api has|is|uses|will|carries|stores|keeps", "roadmap is|for|:", "is|are derived from", "write-ahead|append-only|event-sourced|eventually", "is|are sharded|partitioned|replicated|versioned|stored|encoded|persisted|cached by|across|in|as|on|with|per",
                    "each|every _ uses|owns|has|keeps|gets|holds|runs", "next release|version will", "invariant*", "talks|talk to|over", "each _ process|worker|node|tenant|shard uses|owns|has|keeps|gets", "skips|records|rejects|retries|batches|buffers duplicate|each|every|all|failed|the",
                ],
                &["architecture", "design*", "layer*", "module*", "component*", "schema", "protocol", "proposal|propose*", "interface*", "trade-off*|tradeoff*", "queue*", "service*", "index*", "roadmap", "plan", "consider*", "worker*"],
            ),
            Self::Bug => (
                &[
                    "root cause", "caused by", "the|a|this|that|real bug|culprit|regression|leak|deadlock|race|defect|crash is|was|in|came|happens|comes|turned|only", "fixed|fixes|fixing by|in|the|it|that|with|a|this|now",
                    "turned out|turns out", "the fix|workaround|problem|issue|failure was|is|turned|:|lies", "crash*|fail*|broke|breaks|hang*|panick*|panics|deadlock* on|when|after|with|because|during|under|if|at",
                    "off-by-one|off-by-two", "race condition", "memory leak", "use-after-free|segfault*|deadlock*", "data loss", "regression in|from|since", "broke the|our|all|after|when|because",
                    "recovered|recovers the|after", "lesson|lessons learned|:|is", "does not delete|lose|drop|overwrite|survive", "is|are|was|were corrupted|lost|truncated|dropped|duplicated when|if|after|by|on|because|during", "leaks|leaked|leaking memory|file|handles|connections|descriptors|threads|the", "null pointer|nullpointer*", "wipes|wiped|deletes|exposed|exposes the|a|complete|all|our",
                    "bug #*", "bug in|where|that", "stack overflow", "times|timed out when|because|after",
                ],
                &["bug*", "fix*", "error*", "fail*", "crash*", "broke|broken", "regression*", "leak*", "because", "wrong", "workaround", "patch*", "panic*", "corrupt*", "missing", "stale", "failed", "timeout*"],
            ),
            Self::Benchmark => (
                &[
                    "benchmark* show*|say*|gave|result*|:|ran|run|with|put*|on", "p50|p95|p99|p999 is|was|at|from|of|went|dropped|fell|latency|now|to",
                    "requests|queries|inserts|writes|ops|rows|messages|memories|events per|a|/ second|sec|s", "times|x faster|slower|smaller|larger", "percent|% faster|slower|less|more|smaller|better|fewer", "latency|throughput|runtime|memory|rss|recall|precision|accuracy|size dropped|fell|rose|went|is|was|improved|increased|decreased|grew|now|of|at|from",
                    "measured at|the|a|on|with|over|at", "down|up|dropped|fell|went|improved|rose|grew|shrank|cut|reduced from _ to|ms|mb|gb|s|seconds|percent|kb", "took|takes _ ms|s|seconds|minutes|us|µs|hours", "cold start takes|took|is|was|of",
                    "numbers|figures|results are|were|:|from|on",
                ],
                &["benchmark*", "latency", "throughput", "faster", "slower", "ms", "mb", "gb", "seconds", "qps", "rps", "median", "p95|p99|p50", "percent", "measured|measure", "%", "cpu", "accuracy|recall|precision", "profil*"],
            ),
            Self::Preference => (
                &[
                    "prefer*|prefers", "i|she|he|they|we|user|team like|likes|love|loves|hate|hates|dislike*|want|wants _ better|more|to|in|as|with|when|every|all|only|no",
                    "i'd|she'd|he'd|they'd|we'd rather", "would rather", "favorite|favourite", "always|never use|write|put|send|add|run|push|commit|merge|include|ask|format|call|give|show|start|reply|answer|deploy|schedule",
                    "don't|do not ever|use|add|put|write|send|push|mention|call|include|touch|schedule|commit", "please always|never|stop|keep|avoid", "i|we like|hate|love|dislike|want", "can't stand", "is allergic|vegetarian|vegan|left-handed", "rather than", "my style|preference|convention|habit", "works best for me|us|her|him|them",
                ],
                &["prefer*", "rather", "style", "likes", "hates", "better", "convention", "never", "always", "instead", "favorite"],
            ),
            Self::Fact => (
                &[
                    "lives|runs|listens|sits|is hosted|hosted|located|deployed on|at|in|under|behind", "is|are on port", "port is|number", "is in charge", "works at|for|as|from|on", "is|'s our|the|my|their owner|lead|maintainer|manager|cto|ceo|contact|boss|sister|brother|wife|husband|daughter|son|partner|doctor|dentist|reviewer|author|dba",
                    "owns the|our|all", "birthday|anniversary is|was|on", "was born", "moved to|from", "is called|named", "email|phone|address|number|timezone|hostname|ip|domain|license|account|deadline|budget|expiry is|:|are|of|was", "server|database|cluster|bucket|registry|repo|repository|box|machine|instance|host|dashboard|wiki|runner is|are|has|lives|runs|sits|was|'s",
                    "deadline is|:|was|for", "expires|expire|renews|ends on|in|at|every|next", "based in|on", "is responsible|on-call|oncall for|this|until", "joined|left the|us|as|our|on|in|last", "confirmed :|that|via|by|one|the", "on record", "for the record|file", "fyi", "just|quick confirmed|fact", "we|i have until", "is _ weeks|days|months|years|hours long|old|from|on", "the|our budget", "retention is|of", "named after", "allergic to",
                ],
                &["server*", "port", "host*", "owner|owns", "contact", "lives", "works", "born", "deadline", "version", "region", "cluster", "team", "office", "located", "records", "is at", "schedule", "on-call", "account", "birthday", "since", "named", "called"],
            ),
            Self::Commitment => (
                &[
                    "i'll|we'll|she'll|he'll|they'll|i|we|will send|deliver|fix|finish|have|write|review|email|call|update|do|prepare|ship|open|file|move|talk|take|look|publish|merge|release|schedule|bring|investigate|draft|rotate|migrate|present|pay|book _|the|it|to|and",
                    "promised|promise to|the|her|him|them|i|that|a|us", "promised _ i'd|we'd|to|a|the", "committing|committed to", "by|before|until monday|tuesday|wednesday|thursday|friday|saturday|sunday|tomorrow|tonight|end|eod|eow|month-end|noon|q1|q2|q3|q4|next|january|february|march|april|may|june|july|august|september|october|november|december|the",
                    "todo :|for", "action item*", "follow|following up with|on|by|next", "due on|by|next|in", "will|must|has|have|needs to be ready|done|shipped|finished|in|merged|fixed|paid|reviewed|rotated by|before", "remind me|us", "don't let me forget", "i|we owe", "is|are scheduled|planned|booked for|on|at", "assigned to", "takes|take|took over|ownership the|of|from", "on|to my list|plate", "blocked _ for",
                ],
                &["by", "deadline", "friday|monday|tuesday|wednesday|thursday|saturday|sunday", "tomorrow", "will|i'll|we'll", "due", "promise*", "next week", "end of", "before", "must", "scheduled", "today"],
            ),
            Self::Procedure => (
                &[
                    "to deploy|release|build|restore|reset|rotate|publish|roll|run|reproduce|set|install|upgrade|recover|debug|get|test|migrate|restart|regenerate|update|onboard|connect|back|flush _|the|a|it|up|in|back|and", "steps are|:|to", "how to", "first|then|next|finally run|stop|start|open|export|set|copy|push|check|wait|tag|merge|apply|drain|call|restore|delete|make|bump|log|pull|take|rebase|switch",
                    "run|call|execute _ before|after|then|first|to|in|with", "you|we|reviewers|everyone|developers|engineers need|have|must|should to|run|first|set|export|start|restart|ask|wait|check|rebase|open", "make sure to|you|the|that", "before deploying|releasing|merging|pushing|requesting|running|upgrading|editing|changing|every|each", "after every|each|deploying|releasing|merging|changing|three|a", "runbook|playbook|checklist", "whenever|when|if _ fails|breaks|happens|changes|fires|crashes", "the way to|we", "requires a|two|an|running|the", "procedure|process is|:|for", "only through|via|from|with", "stop and",
                ],
                &["run|runs", "step*", "then", "first", "before", "after", "command*", "script*", "release*", "deploy*", "restore*", "make sure", "always", "must|should", "every", "release process", "via", "with"],
            ),
        }
    }
}

/// Phrases that ask to be remembered.
pub(crate) const REMEMBER: &[&str] = &[
    "remember that|this|:|to|when|the|my|our|i|we", "please remember", "don't|do not forget that|this|to|the|:", "keep in mind", "keep this|that in mind", "note to self", "make a note",
    "this|that is important", "store this", "for future reference", "memorize|memorise", "note that", "important :", "write this down", "take note", "save this", "for the record|file",
];

/// A sentence that begins so says little.
pub(crate) const FILLERS: &[&str] = &[
    "hi", "hey", "hello", "thanks", "thank you", "ok", "okay", "sure", "great", "cool", "nice", "lol", "haha", "hmm", "wow", "yeah", "yep", "yes", "no problem", "sounds good", "got it", "perfect", "awesome", "good morning|night|job|luck|to|point|question|catch|idea", "you're right|welcome", "of course", "absolutely", "certainly", "great question", "happy to", "sorry", "no worries", "bye", "see you", "i hope", "congrats|congratulations", "alright", "right", "oh", "interesting", "done", "exactly", "here is|are|you|'s", "here's", "any time", "glad", "i see", "take care", "all good|done", "makes sense", "well done", "what's up", "how are|is|was|do|does|did|can|should",
];

/// A sentence that begins so asks for something.
pub(crate) const REQUESTS: &[&str] = &[
    "can|could|would|will you", "please", "show me", "tell me", "explain", "help me", "give me", "list", "what|why|where|when|who|which|how", "is|are|do|does|did|should|can|could|has|have there|it|this|that|we|i|you|the", "write me|a|an|some", "fix this|the|it", "try", "add a|an|the|some|tests|more", "make it|the|this|that|a", "check the|if|whether|this|that|it", "run the|it|this|tests|cargo|that|again", "open the", "rename", "refactor", "create a|an|the", "implement", "update the", "look at|into", "find", "let me know", "translate", "summarize|summarise", "format", "remove the|this|that|it", "use the|this|that|a", "go ahead", "continue", "do it|that|this", "print", "convert", "generate", "sort", "move the|it|this", "delete the|it|this", "change the|it|this", "read the", "format this",
];

/// An agent's talk about what it does at the moment.
pub(crate) const PROGRESS: &[&str] = &[
    "let me", "now i'll|let|i|i'm|we|let's", "i'll start|begin|now|check|look|take|run|read|search|see|try|add|create|use|make|go|also|first|help", "i'm going to|looking|reading|running|checking|now|searching", "i will now|start|check|begin|pause|read", "running the|tests|cargo|it|npm", "looking at|into|for", "checking|searching|reading", "i've|i have updated|added|created|made|read|looked|renamed|removed|formatted|refactored|run|written|moved", "i updated|added|created|renamed|moved|wrote|ran|read|made", "the file|files|output|command|tests|test|code|build|function has|have|now|passes|pass|is|are|was|were|looks|contains|shows|compiled|succeeded|takes|does", "all tests|files|checks|done|set", "next , i'll", "first , i'll|let", "based on", "i can|could|need|see|found|notice|think", "this file|function|code|method|module|is|looks|does|should|will|test|line|means|change", "these|those", "it looks|seems|works|compiles|should|is|returns|does|might|may", "here", "there are|is", "done", "working on", "still",
];

/// Doubt: what follows is not settled.
pub(crate) const HEDGES: &[&str] = &[
    "maybe", "perhaps", "might", "not sure", "i guess", "probably", "possibly", "don't know", "no idea", "unclear", "we could|might", "you could|can|might", "i wonder", "wondering", "i think", "could be|try|also", "may be", "seems", "i'm not", "depends", "haven't decided|agreed|chosen|settled|looked|measured|tried|tested", "not decided|yet", "did not run", "didn't run", "what if", "hypothetically", "is false", "if we|you|i", "one option", "in general", "for example", "imagine", "let's say", "would be nice|good|great", "some day", "someday", "undecided", "still discussing|thinking|open",
];

/// Words of time.
pub(crate) const TIMES: &[&str] = &[
    "today|tomorrow|yesterday|tonight", "monday|tuesday|wednesday|thursday|friday|saturday|sunday|mondays|fridays", "january|february|march|april|june|july|august|september|october|november|december", "last|next|this week|month|year|quarter|sprint|spring|summer|fall|autumn|winter|night|time|weekend|release", "weeks|days|months|years|hours ago", "since|until|by|before|after", "every day|week|month|monday|friday|hour|night", "deadline", "end of", "o'clock|am|pm", "in 20*", "20*", "q1|q2|q3|q4",
];

/// Verbs of events, and of a lasting state.
pub(crate) const EVENTS: &[&str] = &[
    "went|got|bought|started|finished|moved|met|made|found|won|lost|visited|joined|left|read|wrote|took|saw|saved|learned|learnt|passed|signed|booked|planned|adopted|painted|married|graduated|applied|launched|opened|closed|quit|hired|released|shipped|merged|deployed|discovered|confirmed|verified|inspected",
];

/// Words that give a reason.
pub(crate) const REASONS: &[&str] =
    &["because", "since", "so that", "due to", "therefore", "that's why", "which is why", "as a result", "otherwise", "in order to", "the reason", "so we|i|the|it|that"];
