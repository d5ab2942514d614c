//! An agent's part in the election.

use super::{Agent, Session, status::PeerEvent};
use palm_proto::{
    election::{self, Action},
    types::ids::Revision,
};
use uuid::Uuid;

impl Agent {
    /// A task of the peer's panicked, and starts anew in a while. A leader cannot tell what it did not do or see meanwhile, and
    /// leaves the lead to the next in line.
    pub(super) fn task_failed(&mut self, session: &mut Session) {
        let Some(term) = session.election.term().filter(|_| !session.leaving) else { return };
        self.resign(session, term, Vec::new());
    }

    pub(super) fn resign(&mut self, session: &mut Session, term: Revision, unreached: Vec<Uuid>) {
        self.election(session, election::Event::LeaseInDoubt);
        session.resign(&self.registrar, &self.context, term, unreached);
    }

    /// Tells the election what happened, and carries out what it says.
    pub(super) fn election(&mut self, session: &mut Session, event: election::Event) {
        for action in session.election.handle(event) {
            session.turn += 1;
            session.election_tasks.clear();
            match action {
                Action::Stand(lease) => session.stand(&self.registrar, lease),
                Action::Follow { predecessor, ahead, leader, own } => {
                    session.follow(&self.registrar, &self.context, predecessor, ahead, leader, own);
                }
                Action::Lead(term) => {
                    self.status.announce(PeerEvent::Elected);
                    session.lead(&self.registrar, &self.context, term);
                }
                Action::StepDown => {
                    self.status.announce(PeerEvent::Deposed);
                    log::info!("no longer leading the mesh");
                }
            }
        }
    }
}
