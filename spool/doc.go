// Package spool is the only code that renames or unlinks mail, and that stops
// or starts Postfix. Whoever wants to know whether a message can be lost reads
// this package, and nothing else.
//
// The invariant: at every instant each message of a queue stands under exactly
// one name, in a directory that is either Postfix's own or was set aside, until
// it is deleted because a list names it, and nothing that has a name is ever
// replaced. Postfix is never left stopped.
//
// A run's hand on one queue directory is a [Work]: it holds the lock on that
// directory and the journal. To act, to finish after a death and to do nothing
// the second time are one thing here: the journal says which inode shall stand at
// each name, and the names are made so. A move whose intent has no outcome is
// settled by looking: what is still aside was not moved, all else was. Nothing is
// unlinked but what a list names, file by file, with inode, size and time. Each
// intent says when, and of a message that is to be removed its SHA-256: with the
// lists of verdicts the journal is the account of every message ([Moves]), until its
// mail is long gone ([Forget]).
//
// # The order of steps
//
// Each record of the journal is on disk when the call that writes it returns, and
// is written before what it announces. "Death" is that of the process at any
// instruction, or of the machine: a power loss leaves the same states, less what
// was not synced, which is never what a record calls done. A full disk, or any
// other error, leaves them too, but with somebody alive to go on at once. What
// the section, its worker, the timer, the next boot and resume do about it is
// [Work.Settle] from Prepare to start, and the same call once more after that.
//
//	step, and what is synced before it      a death after it leaves           what happens then
//
//	Prepare: probe, .QUEUE.RUN made;        empty directories of ours,        Settle, or the next Prepare,
//	  names journaled before ("fresh"),     Postfix untouched                 removes them; no room: nothing
//	  space reserved, queue directory                                         is begun (TestNoRoom)
//	  synced, "wants" journaled             TestCrashWalk, TestPowerLoss
//	stop; "stopping" with master's pid      Postfix up or going down, the     Settle: the names are made as
//	  and the boot clock before it, the     names as they were, perhaps a     wanted, for which Postfix is
//	  command's group ("command") after     stop command at work              stopped once more if it runs
//	  it was started                        TestSettleWhilePostfixRuns        (so after a boot, or a start by hand)
//	the stop is proved, pid/master.pid      Postfix down, the lock free with  Settle; a stop that cannot be
//	  locked; "stopped"                     the process                       proved or journaled: started again,
//	                                        TestStopNotJournaled              names untouched (TestStopNotProved)
//	exchange of .QUEUE.RUN and QUEUE,       one queue new, others full; or    Settle goes on at this queue; where
//	  queue directory synced                the full one under .QUEUE.RUN     Postfix runs by then with the new
//	                                        TestSettleWhilePostfixRuns        one, what came in stays live
//	where no exchange is known: two         QUEUE missing                     Settle; a boot makes an empty one,
//	  renames, each synced                  TestExchangeFallback              which stays (TestLiveDirectoryMadeAnew)
//	.QUEUE.RUN renamed QUEUE.spamfull,      the names of one queue right,     Settle: the next queue; an error
//	  synced; "swapped"                     recorded or not                   here: Start finishes the half ones
//	                                        TestHalfSetNamesAreNotForgotten   and mail flows with the rest live
//	start; "starting" before the lock is    Postfix down or coming up         Settle: started; where it runs and
//	  let go, "command" after it            TestTimer (spool/run)             all is right, that is recorded
//	start proved; "started", with what      the section is over               nothing is left to settle; what was
//	  was not set aside                     TestNotSetAsideIsNotOurs          not set aside is nobody's again; the
//	                                        TestDiedBehindTheStart            next one tells (spool/run)
//	it does not stay up, late: "back",      as after stop or exchange, the    Settle in the direction of "back";
//	  stop proved, exchanged back, synced   other way round                   never under a live master
//	  and "starting"                        TestBackCrashWalk                 (TestNoExchangeUnderMaster)
//	it runs so: what came meanwhile         mail under .QUEUE.RUN or          Settle sets it aside; the run has
//	  "kept", renamed aside, synced;        QUEUE.spamfull                    failed, resume begins the section
//	  "abandoned"                           TestExchangedBack                 again, with all that is aside
//	it was not that: "back" turned off,     as after exchange                 Settle, forward
//	  exchanged forward, "starting"         TestExchangedForwardAgain
//
//	restore, put back: up to 1,000          some moved, some delivered by     the same call: each file is looked
//	  "intent"s, then the renames; what     now, the batch open               at, and the batch closed; what is
//	  a name taken there keeps goes out     TestCrashWalk,                    not aside any more was moved
//	  of the way in a batch of its own      TestDeliveredBeforeClosed,
//	                                        TestRestoreNameTaken
//	both directories of every move          all moved, perhaps not touched    the same: a time in the future is
//	  synced; "outcome"                     TestPowerLoss                     mended for what still is in incoming
//	trigger to qmgr or pickup               mail that waits                   queue_run_delay, 300 s
//	missing hash subdirectory: "fresh",     an empty .dir.RUN.N               the next call removes it
//	  made aside, renamed in, both synced   TestPowerLoss
//	put back of half-written files: the     as restore                        as restore
//	  same batches
//	emptied directory: "removed" first,     an empty QUEUE.spamfull that is   the next put back or purge removes
//	  removed, synced                       nobody's                          it (TestPurgeDiesAtTheDirectory)
//
//	purge: "intent"s with inode and size,   some unlinked, each after its     the same call: what stands goes,
//	  companions first, then unlink         companions                        what does not was unlinked
//	directories synced; "outcome"           all unlinked                      the next batch
//	                                        TestPurgeCrashWalk, TestSyncedBeforeRecorded
//	delete: "intent"s, then "command" of    postsuper at work without us      it is ended first, then each file
//	  postsuper, which waits for that       TestDeleteEndsWhatIsLeft,         is looked at; what no queue has is
//	                                        TestDeliveredWhileADeleteIsOpen   "gone": deleted, or delivered
//	directories synced; "outcome"           TestDeleteCrashWalk
//	hold, release, requeue: the same, and   some moved by postsuper, some     each is looked for in all live
//	  where a name is taken in any live     delivered by now                  queues: in hold, in maildrop, or
//	  queue nothing is moved                TestLiveCrashWalk, TestNameTaken  out of hold: done; in none: "gone"
//	a journal written anew without its      the old one or the new            Forget, by the next run that
//	  messages: the new one, then renamed                                     changes anything
//
// Who goes on: the worker, when its section has died or has not come to its start
// within [SectionLimit]; the section, when its worker has died; the timer, where
// systemd runs, when both have, or the one hangs that is left; a boot starts
// Postfix by itself with whatever names stand; resume, and put back, in any case.
// After whoever died while going on, the next does the same (TestDiesAgain, and
// with processes that are really killed TestKilled; on a real Postfix TestCrashWalk
// of remote/lab). The state's disk full from
// the stop on: TestFullDisk; the record gone: Postfix is started, and what is
// aside is named by health as nobody's (TestStateRemoved of spool/run). Time
// limits use monotonic clocks, and nothing that is decided after a death depends
// on a clock but whether a section is overdue, by that of the boot (TestClockJumps,
// TestOverdueAcrossBoot). Random sequences of all of this, of two runs: TestModel.
package spool
