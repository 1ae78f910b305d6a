//! A text index in columns again: what a file has and what came since, as one.

use roaring::RoaringBitmap;

use super::document::{LEN_MASK, Order};
use super::live::Live;
use super::stored::{Columns, TermEntry, push_posting};
use super::{NONE, Sums, TextIndex};

/// The columns of a new file but for its dictionary, which is written as it is read: [`Merge::terms`].
#[derive(Debug, Default)]
pub(crate) struct Merge {
    pub(crate) keys: Vec<u64>,
    pub(crate) times: Vec<i64>,
    pub(crate) positions: Vec<i64>,
    pub(crate) lens: Vec<u32>,
    pub(crate) importances: Vec<f32>,
    pub(crate) links: Vec<[u32; 2]>,
    pub(crate) sessions: Vec<u64>,
    pub(crate) starts: Vec<u32>,
    pub(crate) turns: Vec<u32>,
    pub(crate) sums: Sums,
    /// Where each document of the former file went.
    stored: Vec<u32>,
    /// Where each slot of memory went.
    live: Vec<u32>,
    /// Whether all documents of the former file kept their numbers, and all others come behind them.
    is_append: bool,
}

/// Takes the dictionary of a new file, term by term in ascending order.
pub(crate) trait MergeSink {
    type Error;

    /// # Errors
    /// What the sink says.
    fn term(&mut self, entry: TermEntry, text: &[u8], postings: [&[u8]; 2]) -> Result<(), Self::Error>;

    /// Says where the last term and its postings end.
    ///
    /// # Errors
    /// What the sink says.
    fn end(&mut self, entry: TermEntry) -> Result<(), Self::Error>;
}

impl Merge {
    /// Numbers everything that an index has anew, in the order of keys.
    pub(super) fn of(index: &TextIndex) -> Self {
        let columns = index.columns();
        let mut live: Vec<(u64, u32)> =
            index.live.present().map(|(slot, text)| (text.document.order.key, slot)).collect();
        live.sort_unstable();
        let mut merge = Self {
            stored: vec![NONE; columns.len()],
            live: vec![NONE; index.live.slots.len()],
            ..Self::default()
        };
        let mut live = live.into_iter().peekable();
        for doc in 0..columns.len() as u32 {
            let key = columns.keys[doc as usize];
            while let Some((_, slot)) = live.next_if(|(other, _)| *other < key) {
                merge.push_live(&index.live, slot);
            }
            if !index.gone.contains(doc) {
                merge.stored[doc as usize] = merge.keys.len() as u32;
                let importance = columns.importances[doc as usize];
                merge.push(columns.order_of(doc), columns.lens[doc as usize], importance);
            }
        }
        let stored = merge.keys.len();
        for (_, slot) in live {
            merge.push_live(&index.live, slot);
        }
        merge.is_append =
            stored == columns.len() && merge.live.iter().all(|doc| *doc == NONE || *doc as usize >= stored);
        merge.relink(index);
        merge
    }

    fn push_live(&mut self, live: &Live, slot: u32) {
        self.live[slot as usize] = self.keys.len() as u32;
        let document = live.slots[slot as usize].document;
        self.push(document.order, document.stored_len(), document.importance);
    }

    fn push(&mut self, order: Order, len: u32, importance: f32) {
        self.keys.push(order.key);
        self.times.push(order.time);
        self.positions.push(order.position);
        self.lens.push(len);
        self.importances.push(importance);
    }

    /// Conversations and neighbours under the new numbers.
    fn relink(&mut self, index: &TextIndex) {
        let columns = index.columns();
        let mut live: Vec<(u64, Vec<u32>)> = index
            .live
            .sessions()
            .map(|(session, slots)| (session, slots.map(|slot| self.live[slot as usize]).collect()))
            .collect();
        live.sort_unstable_by_key(|(session, _)| *session);
        let mut live = live.into_iter().peekable();
        let mut placed = RoaringBitmap::new();
        for at in 0..columns.sessions.len() {
            let session = columns.sessions[at];
            while let Some((other, turns)) = live.next_if(|(other, _)| *other < session) {
                self.push_session(other, &[], &turns);
            }
            let turns: Vec<u32> = columns
                .turns_at(at)
                .iter()
                .filter_map(|doc| self.stored.get(*doc as usize).copied().filter(|doc| *doc != NONE))
                // In a file that nobody wrote a turn may stand twice.
                .filter(|doc| placed.insert(*doc))
                .collect();
            let newer = live.next_if(|(other, _)| *other == session).map_or(Vec::new(), |(_, turns)| turns);
            self.push_session(session, &turns, &newer);
        }
        for (session, turns) in live {
            self.push_session(session, &[], &turns);
        }
        self.starts.push(self.turns.len() as u32);
        self.links = vec![[NONE; 2]; self.keys.len()];
        for bounds in self.starts.windows(2) {
            for pair in self.turns[bounds[0] as usize..bounds[1] as usize].windows(2) {
                self.links[pair[0] as usize][1] = pair[1];
                self.links[pair[1] as usize][0] = pair[0];
            }
        }
        let terms = |doc: usize| u64::from(self.lens[doc] & LEN_MASK);
        self.sums = Sums {
            texts: self.keys.len() as u64,
            terms: (0..self.lens.len()).map(terms).sum(),
            turn_terms: self.turns.iter().map(|doc| terms(*doc as usize)).sum(),
        };
    }

    /// Adds a conversation whose turns come from two sides, each in order.
    fn push_session(&mut self, session: u64, former: &[u32], newer: &[u32]) {
        if former.is_empty() && newer.is_empty() {
            return;
        }
        self.sessions.push(session);
        self.starts.push(self.turns.len() as u32);
        let start = self.turns.len();
        self.turns.extend_from_slice(former);
        self.turns.extend_from_slice(newer);
        if !former.is_empty() && !newer.is_empty() {
            let order = |doc: &u32| {
                let at = *doc as usize;
                Order { position: self.positions[at], time: self.times[at], key: self.keys[at] }
            };
            // Two ascending runs, which a stable sort makes use of.
            self.turns[start..].sort_by_key(order);
        }
    }

    /// All columns, with a dictionary that was made of [`Self::terms`].
    #[cfg(test)]
    pub(super) fn columns<'a>(
        &'a self,
        entries: &'a [TermEntry],
        term_bytes: &'a [u8],
        postings: &'a [u8],
    ) -> Columns<'a> {
        let Self { keys, times, positions, lens, importances, links, sessions, starts, turns, .. } = self;
        Columns {
            keys,
            times,
            positions,
            lens,
            importances,
            links,
            sessions,
            starts,
            turns,
            entries,
            term_bytes,
            postings,
        }
    }

    /// Hands over the dictionary of the index that this was made of, term by term in ascending order. Terms that no text
    /// holds any more are left out.
    ///
    /// # Errors
    /// What the sink says.
    pub(crate) fn terms<S: MergeSink>(&self, index: &TextIndex, sink: &mut S) -> Result<(), S::Error> {
        let columns = index.columns();
        let mut live: Vec<(&[u8], u32)> =
            index.live.terms.iter().map(|(term, number)| (term.as_bytes(), *number)).collect();
        live.sort_unstable();
        let mut live = live.into_iter().peekable();
        let mut stored = (0..columns.term_count()).peekable();
        let mut postings = Vec::new();
        let mut place = TermEntry::default();
        loop {
            let next = match (stored.peek().map(|at| columns.term_at(*at)), live.peek()) {
                (None, None) => break,
                (Some(stored), Some((live, _))) => stored.min(*live),
                (Some(text), None) => text,
                (None, Some((text, _))) => *text,
            };
            let at = stored.next_if(|at| columns.term_at(*at) == next);
            let number = live.next_if(|(text, _)| *text == next).map(|(_, number)| number);
            let newer = number.map_or(&[][..], |number| &index.live.postings[number as usize]);
            let former = self.former(columns, at, newer, &mut postings);
            if former.holders == 0 {
                continue;
            }
            let kept = if self.is_append { at.map_or(&[][..], |at| columns.postings_at(at)) } else { &[] };
            sink.term(
                TermEntry { holders: former.holders, last: former.last, ..place },
                next,
                [kept, &postings],
            )?;
            place.text += next.len() as u32;
            place.postings += (kept.len() + postings.len()) as u64;
        }
        sink.end(place)
    }

    /// Encodes the postings of one term that cannot be copied as they are.
    fn former(
        &self,
        columns: Columns<'_>,
        at: Option<usize>,
        newer: &[(u32, u32)],
        postings: &mut Vec<u8>,
    ) -> TermEntry {
        postings.clear();
        let mut entry = TermEntry::default();
        let mut push = |doc: u32, count: u32, next: &mut u32| {
            push_posting(postings, *next, doc, count);
            *next = doc + 1;
            entry.holders += 1;
            entry.last = doc;
        };
        let mut newer: Vec<(u32, u32)> = newer
            .iter()
            .map(|(slot, count)| (self.live[*slot as usize], *count))
            .filter(|(doc, _)| *doc != NONE)
            .collect();
        newer.sort_unstable();
        let mut next = 0;
        if self.is_append {
            let kept = at.and_then(|at| columns.entries.get(at)).copied().unwrap_or_default();
            if kept.holders > 0 {
                next = (kept.last.saturating_add(1)).min(columns.len() as u32);
            }
            newer.into_iter().for_each(|(doc, count)| push(doc, count, &mut next));
            return TermEntry {
                holders: entry.holders + kept.holders,
                last: entry.last.max(kept.last),
                ..entry
            };
        }
        let former = at.into_iter().flat_map(|at| columns.each_posting(at));
        let moved = former.filter_map(|(doc, count)| {
            let doc = self.stored.get(doc as usize).copied().filter(|doc| *doc != NONE)?;
            Some((doc, count))
        });
        let mut newer = newer.into_iter().peekable();
        for (doc, count) in moved {
            while let Some((other, count)) = newer.next_if(|(other, _)| *other < doc) {
                push(other, count, &mut next);
            }
            push(doc, count, &mut next);
        }
        newer.for_each(|(doc, count)| push(doc, count, &mut next));
        entry
    }
}
