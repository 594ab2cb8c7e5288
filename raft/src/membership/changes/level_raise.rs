//! Raise of the cluster's level of formats. Like changes of the members, one at a time and each by the leader.

use openraft::impls::ProgressResponder;

use super::{CHANGE_IN_PROGRESS, ChangeResult, MembershipChanger, refused, too_old};
use crate::error::ChangeError;
use crate::level::{Level, NodeVersion};
use crate::membership::hello;
use crate::protocol::entry_format;
use crate::state_machine::StateMachine;
use crate::types::Member;

/// Level that a raise aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RaiseTo {
    /// This level. A node that does not understand it is an error.
    Level(Level),
    /// The highest level that all members understand.
    HighestCommon,
}

impl<S: StateMachine> MembershipChanger<S> {
    /// Raises the cluster's level, once every voter and learner has said, now, that it understands the new one. Returns the
    /// level of the cluster, which may have been there already.
    ///
    /// The entry is fenced with the term of the checks, and members cannot change in between. If its outcome stays
    /// unknown, this node adds no older node any more in its process's life. Another leader has applied the entry, or
    /// will never have it, before it can change members.
    pub(crate) async fn raise_level(&self, to: RaiseTo) -> Result<Level, ChangeError> {
        self.leading_term()?;
        let _guard = self.change_lock.lock().await;
        let term = self.leading_term()?;
        let levels = &self.transport.levels;
        let understood = levels.understood();
        let wanted = match to {
            RaiseTo::Level(wanted) if wanted > understood => {
                return Err(ChangeError::LevelUnknown {
                    wanted: wanted.number(),
                    understood: understood.number(),
                });
            }
            RaiseTo::Level(wanted) => wanted,
            RaiseTo::HighestCommon => understood,
        };
        if wanted <= levels.in_effect() {
            return Ok(levels.in_effect());
        }
        let membership = self.membership();
        if self.change_in_progress() || membership.get_joint_config().len() > 1 {
            return Err(refused(CHANGE_IN_PROGRESS));
        }
        let others = membership.nodes().filter(|(id, _)| **id != self.me());
        let asked = others.map(|(id, member)| self.confirm_version(*id, member));
        let mut common = wanted;
        for confirmed in futures_util::future::join_all(asked).await {
            let (id, member, version) = confirmed?;
            if mutated!(OlderMemberIgnored) {
                continue;
            }
            if version.level < wanted && matches!(to, RaiseTo::Level(_)) {
                return Err(too_old(id, &member.addr, &version, wanted));
            }
            common = common.min(version.level);
        }
        if common <= levels.in_effect() {
            return Ok(levels.in_effect());
        }
        levels.propose(common);
        self.write_level(common, term).await?;
        Ok(levels.in_effect())
    }

    /// Asks a member for its version. It must be the node that the cluster knows.
    async fn confirm_version<'a>(
        &self,
        id: u64,
        member: &'a Member,
    ) -> Result<(u64, &'a Member, NodeVersion), ChangeError> {
        let unconfirmed = |why: String| ChangeError::Unconfirmed {
            id,
            why: format!(
                "{why}; every node must confirm that it understands the new level: start node {id}, or remove it from the \
                 cluster, then ask again"
            ),
        };
        let (reply, version) = hello::hello(&self.transport, id, &member.addr)
            .await
            .map_err(|e| unconfirmed(e.to_string()))?;
        if reply.incarnation != member.incarnation {
            let addr = &member.addr;
            return Err(unconfirmed(format!(
                "node {id} at {addr} runs on another data directory than the one the cluster knows"
            )));
        }
        Ok((id, member, version))
    }

    /// Writes the entry that raises the level, and waits until it is applied here.
    async fn write_level(&self, level: Level, term: u64) -> ChangeResult {
        let writing = async {
            let (responder, response) = ProgressResponder::complete_only();
            self.raft
                .write(entry_format::encode_level(level))
                .with_leader(term)
                .responder(responder)
                .await
                .map_err(|e| ChangeError::Unknown(e.to_string()))?;
            match response.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(e)) => Err(self.explain(e)),
                Err(_) => Err(ChangeError::Unknown(
                    "the node stopped while the entry was in flight".into(),
                )),
            }
        };
        match tokio::time::timeout(self.timeout, writing).await {
            Ok(done) => done,
            Err(_) => Err(ChangeError::Unknown(format!(
                "no outcome within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }
}
