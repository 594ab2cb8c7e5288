//! The list of all mutations.

/// The crate that contains a mutation. Only tests of that crate and of crates that use it can detect the mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// `table/`
    Table,
    /// `storage/`
    Storage,
    /// `raft/`
    Raft,
    /// The binary.
    Program,
}

macro_rules! mutations {
    ($($(#[doc = $breaks:literal])+ $variant:ident = $name:literal in $home:ident, held by $held:expr;)+) => {
        /// A deliberate bug. Its documentation states the violated guarantee.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[doc = $breaks])+ $variant,)+
        }

        impl Mutation {
            /// All mutations.
            pub const ALL: &[Mutation] = &[$(Mutation::$variant),+];

            /// Returns its name in `TRIARCH_MUTATION`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mutation::$variant => $name,)+
                }
            }

            /// Returns its name in the product's `mutated!(…)`.
            pub fn variant(self) -> &'static str {
                match self {
                    $(Mutation::$variant => stringify!($variant),)+
                }
            }

            /// Returns its effect, as text.
            pub fn breaks(self) -> &'static str {
                match self {
                    $(Mutation::$variant => concat!($($breaks),+).trim_ascii(),)+
                }
            }

            /// Returns the crate that contains it.
            pub fn home(self) -> Home {
                match self {
                    $(Mutation::$variant => Home::$home,)+
                }
            }

            /// Parts of the names of the costly tests for the violated guarantee. These tests run before others.
            pub fn held_by(self) -> &'static [&'static str] {
                match self {
                    $(Mutation::$variant => &$held,)+
                }
            }
        }
    };
}

impl Mutation {
    /// Returns the mutation with this name.
    pub fn named(name: &str) -> Option<Mutation> {
        Mutation::ALL
            .iter()
            .copied()
            .find(|mutation| mutation.name() == name)
    }
}

mutations! {
    /// a report counts whatever lease it names
    StaleTokenAccepted = "stale-token-accepted" in Table, held by [];
    /// a report that was accepted and is repeated is refused
    RepeatedReportRefused = "repeated-report-refused" in Table, held by [];
    /// apply takes the time from the machine, not from the log
    WallClockInApply = "wall-clock-in-apply" in Table, held by [];
    /// fencing tokens begin anew every 64 entries
    TokenCounterReset = "token-counter-reset" in Table, held by [];
    /// what a plan grants is not held against the limits of queues and keys
    GrantNotVerified = "grant-not-verified" in Table, held by [];
    /// a second unfinished task gets the unique key of the first
    UniqueKeyNotChecked = "unique-key-not-checked" in Table, held by [];
    /// a task starts when the first that it comes after has succeeded
    DependencyStartedEarly = "dependency-started-early" in Table, held by [];
    /// an attempt lost with its worker counts as a failure of the task
    LossCountedAsFailure = "loss-counted-as-failure" in Table, held by [];
    /// an idempotency key or request id is taken for that of another body
    KeyWithAnotherBodyAccepted = "key-with-another-body-accepted" in Table, held by [];
    /// a tick that came already comes again, and makes another job
    TickFiresTwice = "tick-fires-twice" in Table, held by [];
    /// setting the time of the table back leaves the delays of tasks in the future
    DelaysKeptInFuture = "delays-kept-in-future" in Table, held by [];
    /// answers by request id are not in the snapshot
    AnswersLeftOutOfSnapshot = "answers-left-out-of-snapshot" in Table, held by [];
    /// idempotency keys of forgotten jobs are not in the snapshot
    OldKeysLeftOutOfSnapshot = "old-keys-left-out-of-snapshot" in Table, held by [];
    /// schedules are neither in the snapshot nor in the digest
    SchedulesLeftOutOfSnapshot = "schedules-left-out-of-snapshot" in Table, held by [];

    /// nothing that is appended is ever synced
    NoFsync = "no-fsync" in Storage, held by [];
    /// an append is acknowledged, and synced after that
    FsyncAfterAnswer = "fsync-after-answer" in Storage, held by [];
    /// a failed fsync is tried again, and believed when it succeeds
    FailedFsyncRetried = "failed-fsync-retried" in Storage, held by [];
    /// a vote is only in memory
    VoteNotPersisted = "vote-not-persisted" in Storage, held by [];
    /// chunks are not held against their checksums
    ChecksumIgnored = "checksum-ignored" in Storage, held by [];
    /// a log that ends before what it once acknowledged is taken for whole
    MarkIgnored = "mark-ignored" in Storage, held by [];
    /// what is cut off the log stays on disk
    TruncationNotPersisted = "truncation-not-persisted" in Storage, held by [];
    /// a snapshot is believed without being read through
    SnapshotNotVerified = "snapshot-not-verified" in Storage, held by [];
    /// a snapshot takes the place of the log before its bytes are on disk
    SnapshotNotSynced = "snapshot-not-synced" in Storage, held by [];

    /// a follower appends a command that it cannot decode
    UndecodableCommandAccepted = "undecodable-command-accepted" in Raft, held by ["an_entry_that_a_node_could_not_apply"];
    /// a node that no member knows is heard
    StrangerHeard = "stranger-heard" in Raft, held by ["votes_and_appends_of_a_node_that_no_member_knows"];
    /// a stranger founds a cluster, or adopts a waiting node
    StrangerFoundsCluster = "stranger-founds-cluster" in Raft, held by ["only_the_first_of_the_list_founds_a_cluster"];
    /// a process on a copy of a data directory is heard beside the original
    CopiedNodeHeard = "copied-node-heard" in Raft, held by ["a_process_on_a_copied_data_directory"];
    /// a term far beyond every other is adopted
    TermJumpAccepted = "term-jump-accepted" in Raft, held by ["a_term_far_ahead_is_refused"];
    /// a call in the name of a held worker needs no secret
    WorkerSecretIgnored = "worker-secret-ignored" in Program, held by ["a_worker_that_has_sent_its_secret"];
    /// a node whose disk was put back votes for logs that lack what it acknowledged
    RestoredDiskVotes = "restored-disk-votes" in Raft, held by ["a_disk_that_was_put_back"];
    /// what a leader sends replaces acknowledged entries of another history
    ContradictionOverruled = "contradiction-overruled" in Raft, held by ["two_acknowledged_histories"];
    /// a follower that cannot be reached counts as one that has the entry
    AnswerBeforeCommit = "answer-before-commit" in Raft, held by ["caught_without_a_quorum", "a_leader_without_a_quorum"];
    /// a leader answers reads without asking whether it still leads
    LocalRead = "local-read" in Raft, held by ["a_leader_without_a_quorum"];
    /// a read does not wait until what was acknowledged is applied
    ReadBeforeApplied = "read-before-applied" in Raft, held by ["reads_wait_for_what_was_acknowledged"];
    /// what a leader decided in one term is carried out in another
    DecisionsNotFenced = "decisions-not-fenced" in Raft, held by ["fenced_by_its_term"];
    /// a committed entry is given to the state machine twice
    EntryAppliedTwice = "entry-applied-twice" in Raft, held by ["nothing_acknowledged_is_lost"];
    /// a learner votes before it has caught up
    LearnerPromotedAtOnce = "learner-promoted-at-once" in Raft, held by ["a_learner_that_gets_no_entries"];
    /// a wiped directory under a known id is taken for the one it was
    WipedDirectoryVotes = "wiped-directory-votes" in Raft, held by ["only_a_known_directory", "wiped"];
    /// a leader that cannot commit stays the leader, although another node could
    StalledLeaderStays = "stalled-leader-stays" in Raft, held by ["whose_large_messages_are_lost_hands_over"];
    /// a leader that cannot commit hands over to a node that could not either
    AbdicatesToAnyNode = "abdicates-to-any-node" in Raft, held by ["leadership_stays_where_no_other_node"];
    /// a leader whose successor is not elected stays silent for good
    FailedTransferKept = "failed-transfer-kept" in Raft, held by ["whose_successor_cannot_be_elected"];
    /// a follower calls itself ready without asking the leader how far the log is committed
    ReadyWithoutReadIndex = "ready-without-read-index" in Raft, held by ["starts_behind_is_not_ready"];
    /// a leader that no majority answers calls itself ready
    ReadyWithoutMajority = "ready-without-majority" in Raft, held by ["no_majority_answers_is_not_ready"];
    /// the level rises although a member does not understand it
    OlderMemberIgnored = "older-member-ignored" in Raft, held by ["an_older_node_stays_below"];
    /// a node is added that does not understand the level of the cluster
    OlderNodeAdded = "older-node-added" in Raft, held by ["after_the_rise_an_older_master"];
    /// a snapshot does not say the level of its cluster
    LevelNotInSnapshot = "level-not-in-snapshot" in Raft, held by ["a_head_of_level_1"];
    /// a node that holds another table than the majority goes on
    DivergenceIgnored = "divergence-ignored" in Raft, held by ["differs_from_the_majority"];

    /// a new leader gives nobody time to be heard of
    LeasesExpiredAtElection = "leases-expired-at-election" in Program, held by ["leases_survive_an_election"];
    /// a new leader does not know for how long a worker was silent under those before it
    SilenceForgottenAtElection = "silence-forgotten-at-election" in Program, held by ["a_restarted_worker_registers_under_its_name"];
    /// a worker is answered although the next leader will count a silence that has ended
    SilenceOutlivesContact = "silence-outlives-contact" in Program, held by ["an_answered_heartbeat_ends_the_recorded_silence"];
    /// silence ends no lease
    SilenceNeverEndsALease = "silence-never-ends-a-lease" in Program, held by ["a_silent_worker_loses"];
    /// a heartbeat confirms no lease
    HeartbeatIgnored = "heartbeat-ignored" in Program, held by ["named_in_heartbeats_is_kept"];
    /// a leader that slept judges everyone by the time it slept through
    SleeperJudges = "sleeper-judges" in Program, held by ["paused_single_master_expires_no_worker"];
    /// a request that is forwarded again is another request
    RequestIdReplaced = "request-id-replaced" in Program, held by ["in_flight_when_the_leader_dies", "request_id"];
    /// a request whose repetition changes something more is repeated at the next leader
    OnceRepeated = "once-repeated" in Program, held by ["moves_leadership_once"];
    /// a follower answers reads from what it has
    FollowerAnswersReads = "follower-answers-reads" in Program, held by ["writes_and_linearizable_reads_are_refused"];
    /// a cancellation is applied on the leader alone
    CancelLostOnFailover = "cancel-lost-on-failover" in Program, held by ["cancellation_survives"];
}
