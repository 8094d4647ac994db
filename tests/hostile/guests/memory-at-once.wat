;; world: application
;; Asks for more memory than there is before it runs.
(memory $memory 4097)
