//! Actors that run in the simulator itself: clients, workers, and the injector of faults. They are futures without
//! wakers, because the world knows which actor waits for which event.

use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::process::Ns;
use crate::random::Random;
use crate::world::{Actor, Event, World};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The world, shared by all actors. No actor keeps it borrowed while it waits.
#[derive(Clone)]
pub struct Sim {
    world: Rc<RefCell<World>>,
    spawned: Rc<RefCell<Vec<Task>>>,
}

impl Sim {
    pub fn new(world: World) -> Self {
        Sim {
            world: Rc::new(RefCell::new(world)),
            spawned: Rc::default(),
        }
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    pub fn now(&self) -> Ns {
        self.world.borrow().now
    }

    /// Returns a random stream for an actor that is about to start.
    pub fn branch(&self) -> Random {
        self.world().random.branch()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    pub async fn sleep(&self, span: Ns) {
        let until = self.now() + span;
        self.until(until, || false).await;
    }

    /// Waits until the condition holds (true), or until the time `until` (false). The condition is checked at each
    /// event of this actor.
    pub async fn until(&self, until: Ns, mut so: impl FnMut() -> bool) -> bool {
        {
            let mut world = self.world();
            let actor = world.current;
            world.at(until, Event::Timer { actor });
        }
        poll_fn(|_| {
            if so() {
                Poll::Ready(true)
            } else if self.now() >= until {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Processes events until the first actor has ended, which ends the run.
    pub fn run(&self, first: impl Future<Output = ()> + 'static) -> anyhow::Result<()> {
        let mut tasks: Vec<Option<Task>> = vec![Some(Box::pin(first))];
        self.poll(&mut tasks, 0);
        while tasks[0].is_some() {
            let actor = self.world().runnable.pop_front();
            if let Some(actor) = actor {
                self.poll(&mut tasks, actor);
            } else if !self.world().step()? {
                anyhow::bail!("everybody waits for nothing");
            }
        }
        Ok(())
    }

    fn poll(&self, tasks: &mut Vec<Option<Task>>, actor: Actor) {
        let Some(Some(task)) = tasks.get_mut(actor) else {
            return;
        };
        self.world().current = actor;
        if task
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
        {
            tasks[actor] = None;
        }
        let spawned: Vec<Task> = self.spawned.borrow_mut().drain(..).collect();
        for task in spawned {
            tasks.push(Some(task));
            let actor = tasks.len() - 1;
            self.poll(tasks, actor);
        }
    }
}
